export { openEvents } from './events/open.ts';
export { startSinks } from './main.ts';
export { checkOds } from './ods/check.ts';
export { LakeProjection } from './lake/lake.ts';
export { serveQueries } from './lake/query.ts';
export { LakeStore } from './lake/lake-store.ts';
export { OdsProjection } from './ods/ods.ts';
