export { type LogOptions, openLog, type OpsLog } from './log.ts';
export { EXPOSITION_TYPE, exposition, type MetricName, METRICS, type Sample, watchProcess } from './metrics.ts';
export { startTracing, traceApply, traceCapture } from './tracing.ts';
export { environment, stopSignal, workerName } from './process.ts';
