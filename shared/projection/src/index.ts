export { ProjectionActor, type ProjectionActorOptions } from './actor.ts';
export { bridge } from './bridge.ts';
export { GroupQueue, type Taken } from './group-queue.ts';
export { NetChanges, type NetRow } from './net-changes.ts';
export { oldRows } from './old-rows.ts';
export { leaveOut } from './leave-out.ts';
export type { Accepted, DriverView, Group, Projection, Rewind } from './projection.ts';
