export { startSources } from './main.ts';
