export { ProjectionActor, type ProjectionActorOptions } from './actor.ts';
export type { DriverView, Group, Projection } from './projection.ts';
