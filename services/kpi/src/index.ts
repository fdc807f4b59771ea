export type { KpiFreshness } from './moment.ts';
export { startKpis } from './main.ts';
export type { ValueRow, ValuesQuestion } from './values.ts';
