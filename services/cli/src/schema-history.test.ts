import { memoryBroker, SectionDraft } from '@tributary/changelog';
import { Op, ORIGIN, type TableSchema } from '@tributary/core';
import { expect, it } from 'vitest';
import { schemaChanges, SchemaHistory } from './schema-history.ts';

const text = { oid: 25, schema: 'pg_catalog', name: 'text', kind: 'base' } as const;

function schemaOf(
  columns: Record<string, string>,
  key: readonly string[],
  identity: TableSchema['identity'] = 'default',
): TableSchema {
  return {
    schema: 'public',
    table: 'orders',
    identity,
    columns: Object.entries(columns).map(([name, sqlType]) => ({
      name,
      sqlType,
      type: text,
      typmod: -1,
      key: key.indexOf(name) + 1,
    })),
  };
}

it('says what makes one schema into another', () => {
  const before = schemaOf({ id: 'bigint', total: 'numeric(12,2)', note: 'text' }, ['id']);
  const after = schemaOf({ id: 'bigint', note: 'character varying(9)', region: 'text' }, ['region', 'id'], 'full');
  expect(schemaChanges(before, after)).toEqual([
    { change: 'dropped', column: 'total', type: 'numeric(12,2)' },
    { change: 'retyped', column: 'note', from: 'text', to: 'character varying(9)' },
    { change: 'added', column: 'region', type: 'text' },
    { change: 'key', from: ['id'], to: ['region', 'id'] },
    { change: 'identity', from: 'default', to: 'full' },
  ]);
  expect(schemaChanges(before, before)).toEqual([]);
});

it('tells each version once, with the place and time of its first row', async () => {
  const { changelogs } = memoryBroker();
  const writer = await changelogs.write('s', { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
  const row = (schema: TableSchema, ordinal: number) => {
    const draft = new SectionDraft(schema);
    for (const cells of draft.cells) cells.push('1');
    draft.row(Op.created, 0, ordinal);
    return draft;
  };
  const none = { continues: false, more: false, mark: null, state: null } as const;
  const [first, second] = [schemaOf({ id: 'bigint' }, ['id']), schemaOf({ id: 'bigint', note: 'text' }, ['id'])];
  for (const [lsn, schema] of [
    [10n, first],
    [20n, first],
    [30n, second],
    [40n, second],
  ] as const) {
    const transactions = [{ lsn, endLsn: lsn + 1n, xid: 1, committedAt: Number(lsn) * 1_000_000 }];
    const header = {
      source: 's',
      epoch: 'e',
      kind: 'stream',
      position: { lsn, ordinal: 5 },
      restart: lsn,
      watermark: 0,
    } as const;
    await writer.append({ header: { ...header, ...none, transactions }, sections: [row(schema, 4)] });
  }
  const history = new SchemaHistory();
  for await (const batch of changelogs.read('s', { after: ORIGIN, signal: new AbortController().signal })) {
    history.see(batch);
    if (batch.seq === 4) break;
  }
  const [orders] = history.tables();
  expect(orders?.versions.map(({ position, at, changes }) => ({ position, at, changes }))).toEqual([
    { position: { seq: 1, lsn: '0/A', ordinal: 4 }, at: '1970-01-01T00:00:10.000Z', changes: [] },
    {
      position: { seq: 3, lsn: '0/1E', ordinal: 4 },
      at: '1970-01-01T00:00:30.000Z',
      changes: [{ change: 'added', column: 'note', type: 'text' }],
    },
  ]);
  expect(orders?.versions[1]).toMatchObject({ columns: [{ name: 'id' }, { name: 'note', type: 'text' }], key: ['id'] });
});
