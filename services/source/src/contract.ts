import type { ContractConfig, PromisedTable, SourceConfig } from '@tributary/config';
import {
  type ColumnSchema,
  Fault,
  holdsType,
  keyColumns,
  type PgType,
  type TableSchema,
  tableName,
  typmodOf,
} from '@tributary/core';
import type { CatalogTable } from '@tributary/postgres';
import type { ContractAlerts } from './contract-alerts.ts';

/** One way in which a table does not keep its contract. */
export interface Breach {
  /** `schema.table`. */
  readonly table: string;
  /** Null: it is about the table as a whole. */
  readonly column: string | null;
  readonly problem: string;
  /** The promised columns can be given all the same: see {@link Shape.absent}. */
  readonly bearable: boolean;
}

/** What is compared with a promise: of the catalog, or of the stream. */
export interface Offered {
  readonly columns: readonly { readonly name: string; readonly sqlType: string }[];
  readonly key: readonly string[];
  /** Old rows can be named in the WAL by that key. */
  readonly keyed: boolean;
}

/** How rows of a table go into the changelog. */
export interface Shape {
  /** As readers see it. */
  readonly schema: TableSchema;
  /** As the database has it: what a snapshot asks for. */
  readonly read: TableSchema;
  /** Columns of `schema` that have no values: NULL in a new row, unchanged in every other one. */
  readonly absent: ReadonlySet<number>;
  /** Rows of this shape are left out: the table has another one by now, and is read again. */
  readonly leftOut: boolean;
}

/** A table in the shape that it has. */
export function plainShape(schema: TableSchema): Shape {
  return { schema, read: schema, absent: new Set(), leftOut: false };
}

/**
 * Where a table falls short of what was promised: columns that are gone, or whose type holds more than was promised
 * ({@link holdsType}), and another key. More columns than promised are never a breach. Without the values of its key nothing could be
 * said of a row, so a breach that touches the key, or is of a table without one, is not bearable.
 * @param offered null = there is no such table: consumers keep what they have
 */
export function breachesOf(table: string, promised: PromisedTable, offered: Offered | null): Breach[] {
  if (!offered) return [{ table, column: null, problem: 'the table is gone', bearable: true }];
  const types = new Map(offered.columns.map(({ name, sqlType }) => [name, sqlType]));
  const found: Breach[] = [];
  for (const [column, type] of Object.entries(promised.columns)) {
    const actual = types.get(column);
    const bearable = offered.keyed && !offered.key.includes(column);
    if (actual === undefined) found.push({ table, column, problem: `column ${column} is gone`, bearable });
    else if (!holdsType(type, actual))
      found.push({ table, column, problem: `column ${column} is ${actual} instead of ${type}`, bearable });
  }
  const same = promised.key.length === offered.key.length && promised.key.every((column) => offered.key.includes(column));
  if (promised.key.length > 0 && !same) {
    const now = offered.key.length === 0 ? 'gone' : `(${offered.key.join(', ')})`;
    found.push({ table, column: null, problem: `the key (${promised.key.join(', ')}) is ${now}`, bearable: false });
  }
  return found;
}

export interface ContractOptions {
  readonly config: Pick<SourceConfig, 'name' | 'contract' | 'schemaChanges'>;
  readonly alerts: ContractAlerts;
  /** A type by name, whatever schema it is in; null = there is none. */
  readonly typeNamed: (name: string) => Promise<PgType | null>;
}

/**
 * Holds the tables of a source against its contract, and says what is done about a breach.
 *
 * | `schemaChanges` | a bearable breach                      | any other                 |
 * |-----------------|----------------------------------------|---------------------------|
 * | `apply`         | consumers follow the table             | the same                  |
 * | `keep`          | consumers keep the promised columns    | the source stands still   |
 * | `halt`          | the source stands still                | the same                  |
 */
export class Contract {
  readonly #options: ContractOptions;
  readonly #promised: ContractConfig['tables'];

  constructor(options: ContractOptions) {
    this.#options = options;
    this.#promised = options.config.contract?.tables ?? {};
  }

  /** Tells of everything that is broken, and of what is no longer. @returns the fault that the source stands still with, or null */
  look(tables: ReadonlyMap<string, CatalogTable>): Fault | null {
    const breaches = Object.entries(this.#promised).flatMap(([name, promised]) => {
      const table = tables.get(name);
      return breachesOf(name, promised, table ? offeredBy(table) : null);
    });
    const { config, alerts } = this.#options;
    alerts.tell(breaches, config.contract?.owner ?? '');
    return this.#faultOf(breaches);
  }

  /** Columns that consumers keep and the table does not give, by table. */
  kept(tables: ReadonlyMap<string, CatalogTable>): Record<string, string[]> {
    if (this.#options.config.schemaChanges !== 'keep') return {};
    const kept: Record<string, string[]> = {};
    for (const [name, promised] of Object.entries(this.#promised)) {
      const table = tables.get(name);
      const columns = table ? breachesOf(name, promised, offeredBy(table)).flatMap(({ column }) => column ?? []) : [];
      if (columns.length > 0) kept[name] = columns;
    }
    return kept;
  }

  /**
   * The shape that rows go out in.
   * @param now the table as it is at present, where rows of an earlier shape may still come
   * @throws Fault `contract_broken`
   */
  async shape(schema: TableSchema, now: CatalogTable | undefined): Promise<Shape> {
    const name = tableName(schema);
    const promised = this.#promised[name];
    if (!promised || this.#options.config.schemaChanges === 'apply') return plainShape(schema);
    const breaches = breachesOf(name, promised, offeredBySchema(schema));
    if (breaches.length === 0) return plainShape(schema);
    if (!this.#faultOf(breaches)) return this.#kept(schema, promised, breaches);
    const fault = this.#faultOf(breachesOf(name, promised, now ? offeredBy(now) : null));
    if (fault) throw fault;
    return { ...plainShape(schema), leftOut: true };
  }

  #faultOf(breaches: readonly Breach[]): Fault | null {
    const { config } = this.#options;
    if (config.schemaChanges === 'apply') return null;
    const halting = breaches.filter((breach) => config.schemaChanges === 'halt' || !breach.bearable);
    const [first] = halting;
    if (!first) return null;
    const what = halting.map(({ table, problem }) => `${table}: ${problem}`).join('; ');
    const alone = config.schemaChanges === 'keep' ? ' That cannot be kept.' : '';
    return new Fault(
      'contract_broken',
      `source ${config.name} no longer keeps the contract that ${config.contract?.owner} answers for: ${what}.${alone} It stands still, and the database keeps its log for it, until the tables fit again, or another "contract" or "schemaChanges: apply" is applied.`,
      { source: config.name, table: first.table, breaches: halting.length },
    );
  }

  /** What the table gives, and the promised columns that it does not give. */
  async #kept(schema: TableSchema, promised: PromisedTable, breaches: readonly Breach[]): Promise<Shape> {
    const broken = new Set(breaches.map(({ column }) => column));
    const columns: ColumnSchema[] = [];
    const absent = new Set<number>();
    for (const column of schema.columns) {
      const lost = broken.has(column.name);
      if (lost) absent.add(columns.length);
      columns.push(lost ? await this.#column(column.name, promised) : column);
    }
    for (const name of Object.keys(promised.columns)) {
      if (schema.columns.some((column) => column.name === name)) continue;
      absent.add(columns.length);
      columns.push(await this.#column(name, promised));
    }
    const read = { ...schema, columns: schema.columns.filter((column) => !broken.has(column.name)) };
    return { schema: { ...schema, columns }, read, absent, leftOut: false };
  }

  async #column(name: string, promised: PromisedTable): Promise<ColumnSchema> {
    const sqlType = promised.columns[name] as string;
    const type = await this.#options.typeNamed(sqlType);
    // A type that is gone as well: its text is all there is.
    if (!type) return { name, type: TEXT, typmod: -1, sqlType: 'text', key: 0 };
    const own = type.schema === 'pg_catalog' || sqlType.includes('.');
    return { name, type, typmod: typmodOf(sqlType), sqlType: own ? sqlType : `${type.schema}.${sqlType}`, key: 0 };
  }
}

const TEXT: PgType = { oid: 25, schema: 'pg_catalog', name: 'text', kind: 'base' };

/** What a table of the catalog gives. */
export function offeredBy({ columns, key, identifiable }: CatalogTable): Offered {
  return { columns, key, keyed: identifiable && key.length > 0 };
}

function offeredBySchema(schema: TableSchema): Offered {
  const key = keyColumns(schema).map((index) => (schema.columns[index] as ColumnSchema).name);
  return { columns: schema.columns, key, keyed: key.length > 0 && schema.identity !== 'nothing' };
}
