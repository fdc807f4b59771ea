export { type LogOptions, openLog, type OpsLog } from './log.ts';
export { environment, stopSignal, workerName } from './process.ts';
