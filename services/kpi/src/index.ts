export { Engine } from './engine.ts';
export { KpiProjection } from './projection.ts';
export { KpiStore } from './store.ts';
export type { KpiFreshness } from './moment.ts';
export { startKpis } from './main.ts';
export { testKpi } from './test-kpi.ts';
export type { ValueRow, ValuesQuestion } from './values.ts';
