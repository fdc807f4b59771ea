export { ProjectionActor, type ProjectionActorOptions } from './actor.ts';
export type { DriverView, Group, Projection, Rewind } from './projection.ts';
