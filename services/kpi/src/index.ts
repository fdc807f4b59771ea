export type { KpiFreshness } from './answers.ts';
export { startKpis } from './main.ts';
export type { ValueRow, ValuesQuestion } from './values.ts';
