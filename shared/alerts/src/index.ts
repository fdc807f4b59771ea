export type { PastAlert } from './alert-note.ts';
export { type AlertState, ALL_WELL, type Sight } from './alert-state.ts';
export { Alerts, type AlertsOptions, type SeenAlert, type Told } from './alerts.ts';
