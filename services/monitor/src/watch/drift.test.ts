import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { configReading } from '@tributary/config';
import { describe, expect, it } from 'vitest';
import { ProcessStore } from '../live/store.ts';
import { appendEvents, type ProcessEvent } from '../state.ts';
import { findingsOf } from './look.ts';

const HOUR = 3_600_000_000;
const START = 500_000 * HOUR;
const CONFIG = `kind: Source
name: shop
postgres: postgres://a@b/c
---
kind: Process
name: flow
root: order
objects: { order: { table: shop.orders, key: id, state: status } }
drift: { window: 2d, against: 4d }
alerts: [{ on: [drift] }]
`;

/** One order an hour, which is paid after about `hours(at)`. */
function history(days: number, hours: (day: number) => number): ProcessEvent[] {
  return Array.from({ length: days * 24 }, (_, i): ProcessEvent[] => {
    const from = START + i * HOUR;
    const key = String(i);
    const event = (activity: string, atUs: number, kind: 'created' | 'state', after: string): ProcessEvent => ({
      case: key,
      activity,
      atUs,
      tick: atUs + i,
      source: 'shop',
      lsn: BigInt(atUs),
      ordinal: 1,
      part: 0,
      object: 'order',
      key,
      kind,
      before: null,
      after,
      attributes: null,
    });
    const paid = Math.round(from + hours(i / 24) * HOUR * (0.8 + ((i * 7_919) % 100) / 250));
    return [event('order created', from, 'created', 'new'), event('order paid', paid, 'state', 'paid')];
  }).flat();
}

describe('drift', () => {
  it.each([
    ['another pace in the newest two days', history(6, (day) => (day < 4 ? 1 : 3)), ['drift order created>order paid']],
    ['nothing where it goes as before', history(6, () => 1), []],
    // Four hours against two days say nothing.
    ['nothing as long as there is less before the newest two days than in them', history(3, (day) => (day < 1 ? 1 : 3)), []],
  ])('finds %s', async (_name, events, found) => {
    const folder = await mkdtemp(join(tmpdir(), 'tributary-drift-'));
    try {
      const { configOf } = await configReading();
      const [process] = configOf([{ name: 'a.yaml', text: CONFIG }], { env: {} }).processes;
      if (!process) throw new Error('there is no process');
      const store = await ProcessStore.open({ dataDir: folder, process, heldBytes: 2 ** 20, warn: () => {} });
      const endUs = Math.max(...events.map(({ atUs }) => atUs));
      await appendEvents(store.writer, events);
      await store.writer.run(`INSERT INTO place VALUES ('shop', 1, '1/0', 0, NULL, ${endUs}, 0, NULL)`);
      const { findings } = await findingsOf(store.writer, process, { kinds: ['drift'], nowUs: endUs });
      expect(findings.map(({ id }) => id)).toEqual(found);
      expect(findings.map((one) => [one.rule, one.case])).toEqual(found.map(() => ['drift', null]));
      store.close();
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
