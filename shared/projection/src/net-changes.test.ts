import { describe, expect, it } from 'vitest';
import { NetChanges } from './net-changes.ts';

describe('net changes', () => {
  it('keep the last change per key, with unchanged cells from the one before', () => {
    const net = new NetChanges([0]);
    net.put(['1', 'a', 'long']);
    net.put(['1', 'b', undefined]);
    net.put(['2', 'x', null]);
    net.delete(['2', undefined, undefined]);
    expect(net.take()).toEqual({ deleted: ['2'], rows: [{ row: ['1', 'b', 'long'], fill: false, there: false }], keys: ['1'] });
    expect(net.size).toBe(0);
  });

  it('know which rows stand in the target', () => {
    const net = new NetChanges([0]);
    net.put(['1', 'updated'], true);
    net.put(['2', 'created']);
    net.put(['2', 'created, then updated'], true);
    net.delete(['3', undefined]);
    net.put(['3', 'deleted, then created']);
    net.put(['4', 'created']);
    net.delete(['4', undefined]);
    net.put(['4', 'created again']);
    expect(Object.fromEntries(net.take().rows.map(({ row, there }) => [row?.[0], there]))).toEqual({
      1: true,
      2: false,
      3: true,
      4: false,
    });
  });

  it('follow keys that are swapped inside one transaction', () => {
    const net = new NetChanges([0]);
    expect(net.move(['2'], ['3', 'two'])).toBe(true);
    expect(net.move(['1'], ['2', 'one'])).toBe(true);
    const { deleted, rows } = net.take();
    expect(deleted).toEqual(['1']);
    expect(rows.map((r) => r.row)).toEqual([
      ['2', 'one'],
      ['3', 'two'],
    ]);
  });

  it('say when a moved row lacks values that are only in the target', () => {
    const net = new NetChanges([0]);
    expect(net.move(['1', undefined], ['2', undefined])).toBe(false);
    net.put(['1', 'known']);
    expect(net.move(['1', undefined], ['2', undefined])).toBe(true);
    expect(net.take().rows[0]?.row).toEqual(['2', 'known']);
  });

  it('amend rows that are there or were made before, and make none', () => {
    const net = new NetChanges([0]);
    net.amend(['1', undefined, 'amended']);
    net.put(['2', 'new', null]);
    net.amend(['2', undefined, 'amended']);
    net.delete(['3', undefined, undefined]);
    net.amend(['3', undefined, 'amended']);
    expect(net.known(['2'])).toEqual(['2', 'new', 'amended']);
    expect([net.known(['3']), net.known(['4'])]).toEqual([null, null]);
    expect(net.take()).toEqual({
      deleted: ['3'],
      rows: [
        { row: ['1', undefined, 'amended'], fill: true, there: false },
        { row: ['2', 'new', 'amended'], fill: false, there: false },
      ],
      keys: ['1', '2'],
    });
  });

  it('let a kept row fill only what newer changes left out', () => {
    const net = new NetChanges([0]);
    net.put(['1', 'new', undefined]);
    net.fill(['1', 'old', 'toast']);
    net.fill(['2', undefined, 'toast']);
    net.delete(['3', undefined, undefined]);
    net.fill(['3', undefined, 'toast']);
    const { deleted, rows } = net.take();
    expect(deleted).toEqual(['3']);
    expect(rows).toEqual([
      { row: ['1', 'new', 'toast'], fill: false, there: false },
      { row: ['2', undefined, 'toast'], fill: true, there: false },
    ]);
  });

  it('take nothing from a row that is gone for the one that comes under its key', () => {
    const net = new NetChanges([0]);
    net.put(['1', 'old', 'kept by a contract'], true);
    net.delete(['1', undefined, undefined]);
    net.put(['1', 'new', undefined]);
    expect(net.take().rows).toEqual([{ row: ['1', 'new', null], fill: false, there: true }]);
  });
});
