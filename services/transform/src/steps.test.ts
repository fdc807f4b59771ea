import { columnOf } from './pick.ts';
import type { TransformStep } from '@tributary/config';
import { type Cell, type ColumnSchema, Op, type TableSchema } from '@tributary/core';
import { Database } from '@tributary/duckdb';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connect, type Machinery, machineryOf } from './engine.ts';
import { Flow, StateNeeded } from './flow.ts';
import type { Piece } from './run.ts';
import { namedType, type SqlType } from './sql-types.ts';

let database: Database;
beforeAll(async () => {
  database = await Database.open({ path: ':memory:', memoryBytes: 2 ** 27, threads: 1, spillDir: '' });
});
afterAll(() => database.close());

function table(columns: Readonly<Record<string, string>>, identity: TableSchema['identity'] = 'default'): TableSchema {
  return {
    schema: 'public',
    table: 'orders',
    identity,
    columns: Object.entries(columns).map(([name, text], c): ColumnSchema => {
      const { type, typmod, sqlType } = namedType(text) as SqlType;
      return { name, type, typmod, sqlType, key: c === 0 ? 1 : 0 };
    }),
  };
}

async function machinery(steps: readonly TransformStep[], more: { key?: readonly string[] } = {}): Promise<Machinery> {
  const transform = { name: 't', from: ['shop.public.orders'], steps, places: steps.map((_, i) => `a.yaml:${i + 1}:1`), ...more };
  return machineryOf(transform, await connect(database));
}

type Change = readonly [op: keyof typeof Op, row: readonly Cell[], old?: readonly Cell[]];

function piece(schema: TableSchema, changes: readonly Change[]): Piece {
  const columns = (rows: readonly (readonly Cell[])[]) => schema.columns.map((_, c) => columnOf(rows.map((row) => row[c])));
  const olds = changes.flatMap(([, , old], i) => (old ? [{ i, old }] : []));
  return {
    schema,
    version: '1',
    rows: changes.length,
    ops: Uint8Array.from(changes, ([op]) => Op[op]),
    transactions: new Uint32Array(changes.length),
    ordinals: Uint32Array.from(changes, (_, i) => i + 1),
    columns: columns(changes.map(([, row]) => row)),
    old: olds.length === 0 ? null : { row: Uint32Array.from(olds, ({ i }) => i), columns: columns(olds.map(({ old }) => old)) },
    chosen: false,
    placeOf: (row) => `0/1+${row + 1}`,
  };
}

/** What goes out, as `op cells < old cells`. */
async function sent(
  steps: readonly TransformStep[],
  schema: TableSchema,
  changes: readonly Change[],
  more = {},
): Promise<string[]> {
  const { plans, evaluator } = await machinery(steps, more);
  const plan = await plans.of('shop', schema, '1');
  const sections = await new Flow(evaluator).transform(piece(schema, changes), plan);
  return sections.flatMap(({ schema: to, ops, columns, old }) => {
    const cells = (all: typeof columns, row: number) => all.map((column) => String(column.values()[row])).join(',');
    return ops.map((op, row) => {
      const at = old?.rows.indexOf(row) ?? -1;
      return `${to.table} ${String.fromCharCode(op)} ${cells(columns, row)}${at === -1 ? '' : ` < ${cells(old?.columns ?? [], at)}`}`;
    });
  });
}

const filter = (condition: string): TransformStep => ({ kind: 'filter', condition });
const set = (columns: Record<string, string>, when: string | null = null): TransformStep => ({ kind: 'set', columns, when });
const ORDERS = { id: 'int', status: 'text', qty: 'int' };

describe('steps', () => {
  it('give every type of PostgreSQL its own text again', async () => {
    const values: Readonly<Record<string, readonly string[]>> = {
      boolean: ['t', 'f'],
      bigint: ['-9223372036854775808'],
      'numeric(12,2)': ['1.50', '-0.05'],
      numeric: ['1.5', '100', '0'],
      'double precision': ['1', '1.5', '1e+20', 'NaN', '-Infinity'],
      date: ['2026-01-31', 'infinity', '0044-03-15 BC'],
      timestamp: ['2026-01-31 10:00:00.5', 'infinity'],
      timestamptz: ['2026-01-31 10:00:00+00'],
      time: ['24:00:00'],
      uuid: ['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'],
      jsonb: ['{"a": [1, 2]}'],
      bytea: ['\\x00ff'],
      text: ['', 'Ä \u001f \u001e', 'x'],
      'varchar(9)': ['abc'],
    };
    for (const [type, texts] of Object.entries(values)) {
      const schema = table({ id: 'int', v: type });
      const rows = texts.map((text, i): Change => ['created', [String(i), text]]);
      const through = [...rows, ['created', ['9', null]] as const];
      expect(await sent([set({ v: 'v' })], schema, through), type).toEqual(
        through.map(([, [id, v]]) => `orders c ${id},${String(v)}`),
      );
    }
  });

  it('compute as PostgreSQL does', async () => {
    const steps = [set({ half: 'qty / 2', same: 'status = NULL', word: `status || ' of ' || source` })];
    expect(await sent(steps, table(ORDERS), [['created', ['1', 'new', '5']]])).toEqual(['orders c 1,new,5,2,null,new of shop']);
  });

  it('see the row as it was before the step, and change only rows that meet the condition', async () => {
    const steps = [set({ status: 'upper(status)', copy: 'status' }, 'qty > 3')];
    const rows: Change[] = [
      ['created', ['1', 'a', '5']],
      ['created', ['2', 'b', '1']],
    ];
    expect(await sent(steps, table(ORDERS), rows)).toEqual(['orders c 1,A,5,a', 'orders c 2,b,1,null']);
  });

  it('hide values: a keyed hash is HMAC-SHA-256', async () => {
    const mask: TransformStep = {
      kind: 'mask',
      columns: { status: { mask: 'hash', key: 'key' }, qty: { mask: 'last4' } },
    };
    const text = 'The quick brown fox jumps over the lazy dog';
    expect(await sent([mask], table(ORDERS), [['created', ['1', text, '123456']]])).toEqual([
      'orders c 1,f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8,**3456',
    ]);
  });

  it('take JSON apart, cast, rename and drop', async () => {
    const steps: TransformStep[] = [
      { kind: 'flatten', columns: { doc: { city: { path: 'to.city', type: 'text' }, n: { path: '$.n', type: 'int' } } } },
      { kind: 'cast', columns: { n: 'numeric(6,2)' } },
      { kind: 'rename', columns: { city: 'town' } },
      { kind: 'drop', columns: ['doc'] },
    ];
    const row: Change = ['created', ['1', '{"to": {"city": "Köln"}, "n": 7}']];
    expect(await sent(steps, table({ id: 'int', doc: 'jsonb' }), [row, ['created', ['2', null]]])).toEqual([
      'orders c 1,Köln,7.00',
      'orders c 2,null,null',
    ]);
  });

  it('name file, line, step and table of what cannot be', async () => {
    const wrong = async (step: TransformStep) => sent([step], table(ORDERS), []).catch((error: Error) => error.message);
    const at = (kind: string) => `a.yaml:1:1: transform t, step 1 (${kind}), table shop.public.orders: `;
    expect(await wrong(filter('qtty > 1'))).toBe(`${at('filter')}there is no column "qtty"`);
    expect(await wrong(filter('qty + 1'))).toBe(`${at('filter')}expected a condition, but this is of type INTEGER`);
    expect(await wrong(set({ x: 'status + status' }))).toContain(`${at('set')}No function matches`);
    expect(await wrong(set({ x: 'now()' }))).toContain('the function now');
    expect(await wrong(filter(`status IN (SELECT 'a')`))).toContain('a sub-query is not allowed');
    expect(await wrong({ kind: 'cast', columns: { qty: 'integr' } })).toBe(`${at('cast')}the type "integr" is not known`);
    expect(await wrong({ kind: 'drop', columns: ['id'] })).toContain(
      'the key column "id" of shop.public.orders does not come out',
    );
  });

  it('name step, table and place of a value that cannot be computed, and not the value', async () => {
    const rows = Array.from({ length: 100 }, (_, i): Change => ['created', [String(i), i === 70 ? 'secret' : '7', '1']]);
    const steps = [filter('qty > 0'), { kind: 'cast', columns: { status: 'int' } } as const];
    const error = await sent(steps, table(ORDERS), rows).catch((one: Error) => one);
    expect(String(error)).toContain('transform t, step 2, table shop.public.orders, at 0/1+71: a value cannot be computed');
    expect(String(error)).not.toContain('secret');
  });
});

describe('changes without state', () => {
  const open = [filter(`status <> 'draft'`)];

  it('leave the filter as deleted, enter it as updated', async () => {
    const changes: Change[] = [
      ['updated', ['1', 'draft', '1']],
      ['updated', ['2', 'new', '1']],
      ['updated', ['4', 'new', '1'], ['3', undefined, undefined]],
      ['updated', ['6', 'draft', '1'], ['5', undefined, undefined]],
      ['deleted', ['7', undefined, undefined]],
    ];
    expect(await sent(open, table(ORDERS), changes)).toEqual([
      'orders d 1,undefined,undefined',
      'orders u 2,new,1',
      'orders u 4,new,1 < 3,undefined,undefined',
      'orders d 5,undefined,undefined',
      'orders d 7,undefined,undefined',
    ]);
  });

  it('are told exactly where old rows are known', async () => {
    const [draft, paid] = [
      ['1', 'draft', '1'],
      ['1', 'paid', undefined],
    ] as const;
    const changes: Change[] = [
      ['updated', paid, draft],
      ['updated', draft, ['1', 'paid', '1']],
      ['updated', ['1', 'sent', '1'], ['1', 'paid', '1']],
      ['updated', draft, draft],
      ['deleted', draft],
      ['deleted', ['1', 'paid', '1']],
    ];
    expect(await sent(open, table(ORDERS, 'full'), changes)).toEqual([
      'orders c 1,paid,1',
      'orders d 1,paid,1',
      'orders u 1,sent,1 < 1,paid,1',
      'orders d 1,paid,1',
    ]);
  });

  it('pass what the database did not send, but say when they would have to know it', async () => {
    const changes: Change[] = [['updated', ['1', undefined, '1']]];
    expect(await sent([set({ twice: 'qty * 2' })], table(ORDERS), changes)).toEqual(['orders u 1,undefined,1,2']);
    await expect(sent([set({ twice: `status || '!'` })], table(ORDERS), changes)).rejects.toBeInstanceOf(StateNeeded);
    await expect(sent([filter('qty > 0')], table(ORDERS), changes)).rejects.toBeInstanceOf(StateNeeded);
    expect(await sent([filter('qty > 7')], table(ORDERS), changes)).toEqual(['orders d 1,undefined,undefined']);
    const deleted: Change[] = [['deleted', ['1', undefined, undefined]]];
    await expect(sent([], table(ORDERS), deleted, { key: ['status'] })).rejects.toBeInstanceOf(StateNeeded);
  });

  it('need state where a contract keeps a column that the table lost, and a result depends on it', async () => {
    for (const identity of ['default', 'full'] as const) {
      const orders = table(ORDERS, identity);
      const told = ['1', 'paid', undefined] as const;
      const read: Change[] = [['read', told]];
      const updated: Change[] = [['updated', told, identity === 'full' ? ['1', 'new', undefined] : undefined]] as Change[];
      for (const changes of [read, updated]) {
        const op = changes === read ? 'r' : 'u';
        // What is not known stays as it is with whoever has it.
        expect((await sent([set({ loud: 'upper(status)' })], orders, changes)).map((text) => text.split(' < ')[0])).toEqual([
          `orders ${op} 1,paid,undefined,PAID`,
        ]);
        await expect(sent([set({ twice: 'qty * 2' })], orders, changes), `${identity} ${op}`).rejects.toBeInstanceOf(StateNeeded);
        await expect(sent([filter('qty > 0')], orders, changes), `${identity} ${op}`).rejects.toBeInstanceOf(StateNeeded);
      }
      // New rows are NULL there, which is a value like any other.
      expect(await sent([set({ twice: 'qty * 2' })], orders, [['created', ['1', 'paid', null]]])).toEqual([
        'orders c 1,paid,null,null',
      ]);
      expect(await sent([], orders, [['deleted', ['1', identity === 'full' ? 'paid' : undefined, undefined]]])).toHaveLength(1);
      // A row that is named as kept fills nothing with what was made of nothing.
      expect(await sent([set({ twice: 'qty * 2' })], orders, [['kept', ['1', undefined, undefined]]])).toEqual([
        'orders k 1,undefined,undefined,undefined',
      ]);
    }
  });

  it('leave the other tables of a route, and go to each of a split', async () => {
    const route: TransformStep = { kind: 'route', tables: { 'public.big': 'qty > 5', 'public.small': 'qty > 0' } };
    const rows: Change[] = [
      ['created', ['1', 'a', '9']],
      ['created', ['2', 'a', '1']],
      ['created', ['3', 'a', '0']],
    ];
    expect(await sent([route], table(ORDERS), rows)).toEqual(['big c 1,a,9', 'small c 2,a,1']);
    expect(await sent([route], table(ORDERS), [['updated', ['1', 'a', '1']]])).toEqual([
      'big d 1,undefined,undefined',
      'small u 1,a,1',
    ]);
    const split: TransformStep = { kind: 'split', tables: { 'public.states': ['id', 'status'], 'public.counts': ['id', 'qty'] } };
    expect(await sent([split], table(ORDERS), rows.slice(0, 1))).toEqual(['states c 1,a', 'counts c 1,9']);
  });

  it('truncate', async () => {
    const truncated: Change[] = [['truncated', [null, null, null]]];
    expect(await sent(open, table(ORDERS), truncated)).toEqual(['orders t null,undefined,undefined']);
    expect(await sent(open, table(ORDERS, 'full'), truncated)).toEqual(['orders t undefined,undefined,undefined']);
  });
});

describe('modules', () => {
  const module = (code: string): TransformStep => ({ kind: 'module', module: './steps/m.js', code });
  const twice = module(`
    export const columns = { twice: 'bigint', label: 'text', doc: 'jsonb' };
    export const reads = ['qty', 'status'];
    export default ({ rows }, { source, table }) => rows.map((row) => {
      if (Object.keys(row).join() !== 'qty,status') throw new Error('reads more');
      return row.status === 'draft' ? null : { twice: BigInt(row.qty) * 2n, label: row.status && source + ' ' + table, doc: { q: row.qty } };
    });`);

  it('give columns, between steps that are SQL', async () => {
    const steps = [filter('qty <> 3'), set({ qty: 'qty + 1' }), twice, set({ thrice: 'twice + qty' }), filter('thrice < 30')];
    const rows: Change[] = [
      ['created', ['1', 'new', '1']],
      ['created', ['2', 'draft', '2']],
      ['created', ['3', 'new', '3']],
      ['created', ['4', null, '4']],
      ['created', ['5', 'new', '9']],
    ];
    expect(await sent(steps, table(ORDERS), rows)).toEqual([
      'orders c 1,new,2,4,shop public.orders,{"q":2},6',
      'orders c 4,null,5,10,null,{"q":5},15',
    ]);
  });

  it('see rows that are whole, and no others', async () => {
    const rows: Change[] = [
      ['updated', ['1', 'new', '1']],
      ['updated', ['2', 'draft', '2']],
      ['deleted', ['3', undefined, undefined]],
      ['truncated', [null, null, null]],
    ];
    expect(await sent([twice], table(ORDERS), rows)).toEqual([
      'orders u 1,new,1,2,shop public.orders,{"q":1}',
      'orders d 2,undefined,undefined,undefined,undefined,undefined',
      'orders d 3,undefined,undefined,undefined,undefined,undefined',
      'orders t null,undefined,undefined,undefined,undefined,undefined',
    ]);
    await expect(sent([twice], table(ORDERS), [['updated', ['1', undefined, '1']]])).rejects.toThrow(StateNeeded);
    await expect(sent([twice], table(ORDERS), [['kept', ['1', undefined, '1']]])).rejects.toThrow(StateNeeded);
    const full: Change[] = [
      ['updated', ['1', 'new', '2'], ['1', 'draft', '2']],
      ['deleted', ['2', 'new', '4']],
    ];
    expect(await sent([twice], table(ORDERS, 'full'), full)).toEqual([
      'orders c 1,new,2,4,shop public.orders,{"q":2}',
      'orders d 2,new,4,8,shop public.orders,{"q":4}',
    ]);
  });

  it('get values as JavaScript has them', async () => {
    const types = { id: 'int', big: 'bigint', yes: 'boolean', doc: 'jsonb', at: 'timestamptz', n: 'numeric(12,2)', f: 'float8' };
    const told = module(`export const columns = { types: 'text' };
      export default ({ rows }) => rows.map((row) => ({ types: Object.values(row).map((v) => v === null ? 'null' : typeof v).join(' ') }));`);
    const row = ['1', '9007199254740993', 't', '{"a": 1}', '2026-01-01 00:00:00+00', '1.50', 'NaN'];
    const [made, none] = await sent([told], table(types), [
      ['created', row],
      ['created', ['2', null, null, null, null, null, null]],
    ]);
    expect(made).toBe(`orders c ${row.join()},number bigint boolean object string string number`);
    expect(none).toContain('number null null null null null null');
  });

  it('say where they fail, and not what they failed on', async () => {
    const rows: Change[] = [
      ['created', ['1', 'new', '1']],
      ['created', ['2', 'secret', '2']],
    ];
    const failing = (body: string) =>
      sent([module(`export const columns = { x: 'int' };\nexport default ({ rows }) => ${body};`)], table(ORDERS), rows);
    const at = 'transform t, step 1 (./steps/m.js), table shop.public.orders, at 0/1+';
    await expect(
      failing(`rows.map((row) => { if (row.status === 'secret') throw new TypeError(row.status); return {}; })`),
    ).rejects.toThrow(`${at}2: TypeError, line 2:`);
    await expect(failing('rows.slice(1)')).rejects.toThrow(`${at}1: it must give an array with one entry a row`);
    await expect(failing('rows.map(() => ({ y: 1 }))')).rejects.toThrow('it gave a column "y" that its "columns" do not name');
    await expect(failing(`rows.map((row) => ({ x: row.id === 2 ? 'two' : '1' }))`)).rejects.toThrow(
      /step 1, table shop.public.orders, at 0\/1\+2/,
    );
    await expect(sent([module('export const columns = {}')], table(ORDERS), rows)).rejects.toThrow(
      /a.yaml:1:1: .*step 1 \(module\).*no function as default/,
    );
    await expect(sent([module('syntax error')], table(ORDERS), rows)).rejects.toThrow(/the module cannot be loaded: SyntaxError/);
  });
});
