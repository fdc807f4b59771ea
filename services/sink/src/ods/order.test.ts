import { expect, it } from 'vitest';
import { parentsFirst } from './order.ts';

const order = (tables: Record<number, readonly number[]>, given: readonly number[]) =>
  parentsFirst(given, (oid) => ({ oid, parents: tables[oid] ?? [] }));

it('puts tables behind those that they refer to, and leaves others where they are', () => {
  expect(order({ 1: [2], 2: [3] }, [1, 2, 3, 4])).toEqual([3, 2, 1, 4]);
  expect(order({ 1: [3], 2: [3], 3: [9] }, [2, 1, 3])).toEqual([3, 2, 1]);
  expect(order({}, [3, 1, 2])).toEqual([3, 1, 2]);
});

it('ends where tables refer to one another', () => {
  expect(order({ 1: [2], 2: [1], 3: [1, 3] }, [3, 1, 2])).toEqual([2, 1, 3]);
});
