import { MemoryStore, StoredChangelogs } from '@tributary/changelog';
import { Op, ORIGIN, type Position, systemClock, type TableSchema } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import { Output, type OutSection } from './output.ts';
import { columnOf } from './pick.ts';
import { namedType, type SqlType } from './sql-types.ts';
import { type InputPlace, type OutputState, readVector, type Vector } from './vector.ts';

const integer = namedType('int') as SqlType;
const schema: TableSchema = {
  schema: 'public',
  table: 't',
  identity: 'default',
  columns: [{ name: 'id', type: integer.type, typmod: -1, sqlType: 'integer', key: 1 }],
};

/** Rows `from` to `to` of a transaction: each carries its ordinal. */
function rows(from: number, to: number, transaction = 0): OutSection {
  const ordinals = Array.from({ length: to - from + 1 }, (_, i) => from + i);
  return {
    schema,
    ops: ordinals.map(() => Op.created),
    transactions: ordinals.map(() => transaction),
    ordinals,
    columns: [columnOf(ordinals.map(String))],
    old: null,
  };
}

const at = (seq: number): Vector =>
  new Map([['shop', { seq, lsn: BigInt(seq), ordinal: 1, epoch: 'e', watermark: seq } satisfies InputPlace]]);
const one = { xid: 1, committedAt: 1 };

class World {
  readonly store = new MemoryStore();
  readonly changelogs = new StoredChangelogs(this.store);
  #leaders = 0;

  async lead(definition = 'd'): Promise<Output> {
    const writer = await this.changelogs.write('out', { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
    const state = (writer.last?.state ?? null) as OutputState | null;
    const epoch = `out.${this.#leaders++}`;
    const fail = (error: unknown) => expect.fail(String(error));
    const options = { name: 'out', definition, writer, clock: systemClock, epoch, fail };
    return new Output(options, readVector(state?.inputs, ['shop']));
  }

  /** What a reader that stands there reads, up to the end: ids by transaction, and where it stands then. */
  async read(after: Position = ORIGIN): Promise<{ transactions: string[]; position: Position }> {
    const stop = new AbortController();
    const transactions: string[] = [];
    let position = after;
    let open = false;
    const last = await this.changelogs.last('out');
    for await (const batch of this.changelogs.read('out', { after, signal: stop.signal })) {
      const { header } = batch;
      position = { seq: batch.seq, ...header.position, epoch: header.epoch };
      const ids = header.transactions.map((_, t) =>
        batch.sections.flatMap((section) => [...section.ordinal].filter((_one, row) => section.transaction[row] === t)).join(' '),
      );
      expect(header.continues).toBe(open);
      if (header.continues) transactions.push(`${transactions.pop()} + ${ids.shift()}`);
      transactions.push(...ids);
      open = header.more;
      if (batch.seq === last?.seq) break;
    }
    stop.abort();
    return { transactions, position };
  }
}

describe('output', () => {
  it('gives every transaction a place, and none to what says nothing', async () => {
    const world = new World();
    const output = await world.lead();
    output.write(
      { transactions: [one, one, one], sections: [rows(1, 2, 0), rows(1, 1, 2)], continues: false, more: false },
      at(1),
    );
    output.write({ transactions: [one], sections: [], continues: false, more: false }, at(2));
    expect(output.level).toBe(false);
    output.beat();
    await output.stored;
    expect((await world.read()).transactions).toEqual(['1 2', '1']);
    const state = ((await world.changelogs.last('out'))?.state ?? null) as OutputState | null;
    expect(readVector(state?.inputs, ['shop']).get('shop')?.seq).toBe(2);
  });

  it('goes on inside a transaction where the last leader ended, however it is cut now', async () => {
    const world = new World();
    const first = await world.lead();
    first.write({ transactions: [one], sections: [rows(1, 1)], continues: false, more: false }, at(1));
    first.write({ transactions: [one, one], sections: [rows(1, 1, 0), rows(1, 3, 1)], continues: false, more: true }, null);
    await first.stored;
    const second = await world.lead();
    expect(second.vector.get('shop')?.seq).toBe(1);
    expect(second.resting).toBe(false);
    second.write({ transactions: [one], sections: [rows(1, 1)], continues: false, more: true }, null);
    second.write({ transactions: [one, one], sections: [rows(1, 2, 1)], continues: true, more: true }, null);
    second.write({ transactions: [one], sections: [rows(3, 6)], continues: true, more: false }, at(2));
    await second.stored;
    expect(second.resting).toBe(true);
    expect((await world.read()).transactions).toEqual(['1', '1', '1 2 3 + 4 5 6']);
  });

  it('ends a transaction whose last part says nothing', async () => {
    const world = new World();
    const first = await world.lead();
    first.write({ transactions: [one], sections: [rows(1, 3)], continues: false, more: true }, null);
    await first.stored;
    const second = await world.lead();
    second.write({ transactions: [one], sections: [rows(1, 3)], continues: false, more: true }, null);
    second.write({ transactions: [one], sections: [], continues: true, more: false }, at(1));
    expect(second.resting).toBe(true);
    second.write({ transactions: [one], sections: [rows(1, 1)], continues: false, more: false }, at(2));
    await second.stored;
    expect((await world.read()).transactions).toEqual(['1 2 3 + ', '1']);
  });

  it('takes a reader along that holds messages which the broker lost', async () => {
    const world = new World();
    const first = await world.lead();
    first.write({ transactions: [one], sections: [rows(1, 1)], continues: false, more: false }, at(1));
    const kept = await first.stored;
    first.write({ transactions: [one], sections: [rows(1, 2)], continues: false, more: false }, at(2));
    await first.stored;
    const { position } = await world.read();
    world.store.lose('out', kept);
    const second = await world.lead();
    expect(second.vector.get('shop')?.seq).toBe(1);
    second.write({ transactions: [one], sections: [rows(1, 2)], continues: false, more: false }, at(2));
    await second.stored;
    expect((await world.read(position)).transactions).toEqual(['1 2']);
  });

  it('does not go on with a transaction of other steps', async () => {
    const world = new World();
    const first = await world.lead();
    first.write({ transactions: [one], sections: [rows(1, 3)], continues: false, more: true }, null);
    await first.stored;
    expect((await world.lead('other')).resting).toBe(true);
  });
});
