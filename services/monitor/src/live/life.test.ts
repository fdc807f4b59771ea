import type { ObjectType } from '@tributary/config';
import { Op } from '@tributary/core';
import { expect, it } from 'vitest';
import { type Life, live } from './life.ts';

const ticket: ObjectType = {
  name: 'ticket',
  source: 'desk',
  table: 'public.tickets',
  key: null,
  state: 'step',
  milestones: [],
  of: [],
  created: 'state',
  updated: 'none',
};
const waiting: Life = { state: 'waiting', links: [], reached: [], born: true, alive: true, named: 0 };
const NO_READING = { generation: null, complete: false };

it.each([
  { updated: 'none', op: Op.updated, state: 'waiting', activities: [] },
  { updated: 'state', op: Op.updated, state: 'waiting', activities: ['ticket waiting'] },
  // A long value that the update left alone.
  { updated: 'state', op: Op.updated, state: undefined, activities: ['ticket waiting'] },
  { updated: 'state', op: Op.updated, state: null, activities: [] },
  // Read again, or told once more: nothing happened.
  { updated: 'state', op: Op.read, state: 'waiting', activities: [] },
  { updated: 'state', op: Op.created, state: 'waiting', activities: [] },
] as const)('updated: $updated, a change $op to $state gives $activities', ({ updated, op, state, activities }) => {
  const { events } = live({ ...ticket, updated }, waiting, { op, state, links: [], milestones: [] }, NO_READING);
  expect(events.map(({ activity }) => activity)).toEqual(activities);
});
