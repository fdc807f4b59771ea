export type { Group, Projection } from './projection.ts';
