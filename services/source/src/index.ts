export { checkSource, type Finding } from './check.ts';
export { startSources } from './main.ts';
