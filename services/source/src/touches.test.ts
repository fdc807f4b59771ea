import { Visibility } from '@tributary/postgres';
import { expect, it } from 'vitest';
import { Touches } from './touches.ts';

const start = new Visibility('100:100:');

it('judges rows by the touches that a snapshot does not see', () => {
  const touches = new Touches(start, start.xmax);
  expect(touches.begin(90)).toBeNull();
  const xid = touches.begin(105) as bigint;
  touches.note('t', '1', { xid, deleted: false, unchanged: null });
  touches.note('t', '2', { xid, deleted: true, unchanged: null });
  touches.note('t', '3', { xid, deleted: false, unchanged: new Set([2, 3]) });
  touches.note('t', '3', { xid, deleted: false, unchanged: new Set([3]) });
  const blind = new Visibility('105:106:105');
  const seeing = new Visibility('106:106:');
  expect(touches.any('t', blind)).toBe(true);
  expect(touches.any('t', seeing)).toBe(false);
  expect(touches.judge('t', '1', blind)).toEqual({ kept: new Set(), open: new Set() });
  expect(touches.judge('t', '2', blind)).toBe('gone');
  expect(touches.judge('t', '3', blind)).toEqual({ kept: new Set([3]), open: new Set([3]) });
  expect(touches.judge('t', '4', blind)).toBe('fresh');
  expect(touches.judge('t', '1', seeing)).toBe('fresh');
});

it('tells what no snapshot of this age can tell: columns of a row that came under a key in which another one was', () => {
  const touches = new Touches(start, start.xmax);
  touches.note('t', '1', { xid: 105n, deleted: true, unchanged: null });
  touches.note('t', '1', { xid: 105n, deleted: false, unchanged: new Set([2]) });
  expect(touches.judge('t', '1', new Visibility('105:106:105'))).toEqual({ kept: new Set(), open: new Set([2]) });
});

it('forgets only what every snapshot sees', () => {
  const touches = new Touches(start, start.xmax);
  const flight = touches.takeOff();
  flight.seen = new Visibility('105:106:105');
  touches.note('t', '1', { xid: 105n, deleted: false, unchanged: null });
  touches.prune(new Visibility('106:106:'));
  expect(touches.keys('t')).toEqual(['1']);
  touches.land(flight);
  touches.prune(new Visibility('106:106:'));
  expect(touches.keys('t')).toEqual([]);
});

it('remembers what a snapshot in flight does not see, also when it is streamed late, and before the snapshot is known', () => {
  const touches = new Touches(start, start.xmax);
  const flight = touches.takeOff();
  touches.prune(new Visibility('110:110:'));
  expect(touches.begin(105)).toBe(105n);
  touches.land(flight);
  expect(touches.begin(105)).toBeNull();
});

it('drops everything past its bound, and says which transactions are not remembered', () => {
  const touches = new Touches(start, start.xmax);
  for (let i = 0; i <= 200_000; i++) touches.note('t', String(i), { xid: 200n, deleted: false, unchanged: null });
  expect(touches.epoch).toBe(1);
  expect(touches.untrackedBelow).toBe(201n);
  expect(touches.any('t', new Visibility('150:150:'))).toBe(false);
});
