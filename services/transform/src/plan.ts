import type { JsonPath, Lookup, Mask, TransformConfig, TransformStep } from '@tributary/config';
import { type ColumnSchema, Fault, keyColumns, type TableSchema, tableName, unreachable } from '@tributary/core';
import { duckLiteral } from '@tributary/duckdb';
import type { Expressions } from './expression.ts';
import { maskSql } from './mask.ts';
import { keptRows } from './table-state.ts';
import { type Given, type Ref, type SqlStage, StageDraft } from './sql-stage.ts';
import { loadModule, ModuleStage } from './module.ts';
import { namedType, type SqlType, sqlTypeOf, TEXT_TYPE, typeOfExpression } from './sql-types.ts';

/** A column of the result. */
export interface PlanColumn {
  readonly name: string;
  readonly type: SqlType;
  readonly ref: Ref;
  /** Columns of the input that its value depends on. */
  readonly needs: readonly number[];
}

/** A table that rows go to. */
export interface Target {
  readonly schema: TableSchema;
  /** Per column of `schema`, its place in the plan's columns. */
  readonly columns: readonly number[];
}

/** Steps that rows of one table, in one shape, go through. */
export interface Steps {
  readonly input: TableSchema;
  readonly source: string;
  readonly stages: readonly (SqlStage | ModuleStage)[];
  readonly columns: readonly PlanColumn[];
  /** A row goes to the target whose number this column holds; null = to each. */
  readonly route: PlanColumn | null;
}

/** What happens to the rows of one table in one shape. */
export interface Plan extends Steps {
  readonly targets: readonly Target[];
  /** Some rows do not pass. */
  readonly filters: boolean;
  /** Some step is a module: it must see whole rows, and no others. */
  readonly modules: boolean;
  /** Columns of the input that decide whether a row passes, and where to. */
  readonly filterNeeds: readonly number[];
  /** The same for the key of the result alone, of every row, whether it passes or not. */
  readonly keyOnly: Steps;
  /** The key of the result is known from the key of the input. */
  readonly keyFollows: boolean;
}

export interface PlanOptions {
  readonly transform: TransformConfig;
  readonly source: string;
  readonly input: TableSchema;
  readonly expressions: Expressions;
  /** Tables that are looked up in, by `SOURCE.SCHEMA.TABLE`. */
  readonly lookups: ReadonlyMap<string, TableSchema>;
}

/** A column on its way through the steps: at rest outside, or being computed. */
interface Cell {
  readonly name: string;
  readonly type: SqlType;
  readonly ref: Ref | null;
  readonly alias: string | null;
  readonly needs: ReadonlySet<number>;
}

/**
 * Works out, for one table in one shape, what the steps of a transform do: which columns are copied as they are, and one
 * statement for all the others.
 * @throws Fault `config_invalid`, naming file, line, column and step
 */
export async function planOf(options: PlanOptions): Promise<Plan> {
  const planner = new Planner(options);
  for (const [i, step] of options.transform.steps.entries()) await planner.step(step, i);
  return planner.finish();
}

class Planner {
  readonly #options: PlanOptions;
  /** Stages that are whole; of one that SQL does, also what it is made of. */
  readonly #stages: {
    readonly stage: SqlStage | ModuleStage;
    readonly draft: StageDraft | null;
    readonly given: readonly Given[];
  }[] = [];
  #draft = new StageDraft();
  #slots = 0;
  #cells: Cell[];
  readonly #filterNeeds = new Set<number>();
  #filters = false;
  #route: Cell | null = null;
  #tables: readonly (readonly [table: string, columns: readonly string[] | null])[];
  #step = -1;

  constructor(options: PlanOptions) {
    this.#options = options;
    const { input, transform } = options;
    this.#cells = input.columns.map((column, c) => ({
      name: column.name,
      type: sqlTypeOf(column),
      ref: { input: c },
      alias: null,
      needs: new Set([c]),
    }));
    this.#tables = [[transform.to ?? tableName(input), null]];
  }

  async step(step: TransformStep, index: number): Promise<void> {
    this.#step = index;
    try {
      await this.#apply(step);
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      const { transform, source, input } = this.#options;
      const place = transform.places[index] === undefined ? '' : `${transform.places[index]}: `;
      throw new Fault(
        'config_invalid',
        `${place}transform ${transform.name}, step ${index + 1} (${step.kind}), table ${source}.${tableName(input)}: ${error.message}`,
        { transform: transform.name, step: index + 1 },
        { cause: error.cause },
      );
    }
  }

  async #apply(step: TransformStep): Promise<void> {
    switch (step.kind) {
      case 'filter':
        return this.#filter(step.condition);
      case 'set':
        return this.#set(step.columns, step.when);
      case 'rename':
        return this.#rename(step.columns);
      case 'drop':
        for (const name of step.columns) this.#cell(name);
        this.#cells = this.#cells.filter((cell) => !step.columns.includes(cell.name));
        return;
      case 'cast':
        for (const [name, type] of Object.entries(step.columns)) this.#cast(name, type);
        return;
      case 'mask':
        for (const [name, mask] of Object.entries(step.columns)) this.#mask(name, mask);
        return;
      case 'flatten':
        for (const [name, paths] of Object.entries(step.columns)) this.#flatten(name, paths);
        return;
      case 'lookup':
        return this.#lookup(step.lookup);
      case 'module':
        return this.#module(step.module, step.code);
      case 'route':
        return this.#routes(step.tables);
      case 'split':
        this.#tables = Object.entries(step.tables);
        return;
      default:
        unreachable(step);
    }
  }

  async #filter(condition: string): Promise<void> {
    const { sql, needs } = await this.#expression(condition);
    const type = await this.#typeOf(sql);
    if (type !== 'BOOLEAN') throw new Fault('config_invalid', `expected a condition, but this is of type ${type}`);
    this.#draft.where(this.#step, sql);
    this.#filters = true;
    for (const need of needs) this.#filterNeeds.add(need);
  }

  /** All expressions see the row as it was before the step. */
  async #set(columns: Readonly<Record<string, string>>, when: string | null): Promise<void> {
    const condition = when === null ? null : await this.#expression(when);
    const changed: Cell[] = [];
    for (const [name, text] of Object.entries(columns)) {
      const { sql, needs } = await this.#expression(text);
      const old = this.#find(name);
      const found = await this.#typeOf(sql);
      const type = old?.type ?? typeOfExpression(found === '"NULL"' ? 'VARCHAR' : found);
      const value = old && found !== old.type.duck ? `CAST(${sql} AS ${old.type.duck})` : sql;
      if (old) await this.#typeOf(value);
      const otherwise = old ? this.#alias(old) : `CAST(NULL AS ${found})`;
      const whole = condition ? `CASE WHEN ${condition.sql} THEN ${value} ELSE ${otherwise} END` : value;
      const all = new Set([...needs, ...(condition ? [...condition.needs, ...(old?.needs ?? [])] : [])]);
      changed.push({ name, type, ref: null, alias: this.#draft.column(this.#step, whole, old?.type.duck ?? found), needs: all });
    }
    for (const cell of changed) this.#put(cell);
  }

  #rename(columns: Readonly<Record<string, string>>): void {
    for (const name of Object.keys(columns)) this.#cell(name);
    this.#cells = this.#cells.map((cell) => ({ ...cell, name: columns[cell.name] ?? cell.name }));
    const names = this.#cells.map((cell) => cell.name);
    const twice = names.find((name, i) => names.indexOf(name) !== i);
    if (twice !== undefined) throw new Fault('config_invalid', `two columns would be named "${twice}"`);
  }

  #cast(name: string, text: string): void {
    const cell = this.#cell(name);
    const type = namedType(text);
    if (!type) throw new Fault('config_invalid', `the type "${text}" is not known`);
    const value = this.#alias(cell);
    const read = cell.type.duck === 'VARCHAR' ? type.read(value) : `CAST(${value} AS ${type.duck})`;
    const cut = /^(varchar|bpchar)$/.test(type.type.name) && type.typmod > 4 ? `left(${read}, ${type.typmod - 4})` : read;
    this.#put({ ...cell, type, ref: null, alias: this.#draft.column(this.#step, cut, type.duck) });
  }

  #mask(name: string, mask: Mask): void {
    const cell = this.#cell(name);
    const type = TEXT_TYPE;
    const text = cell.type.write(this.#alias(cell));
    this.#put({ ...cell, type, ref: null, alias: this.#draft.column(this.#step, maskSql(mask, text), type.duck) });
  }

  #flatten(name: string, paths: Readonly<Record<string, JsonPath>>): void {
    const cell = this.#cell(name);
    const value = this.#alias(cell);
    const json = cell.type.duck === 'JSON' ? value : `CAST(${value} AS JSON)`;
    for (const [column, { path, type: typeName }] of Object.entries(paths)) {
      const type = namedType(typeName);
      if (!type) throw new Fault('config_invalid', `the type "${typeName}" is not known`);
      const full = path.startsWith('$') ? path : `$.${path}`;
      const text = `json_extract_string(${json}, ${duckLiteral(full)})`;
      const read = type.duck === 'VARCHAR' ? text : `CAST(${text} AS ${type.duck})`;
      this.#put({ name: column, type, ref: null, alias: this.#draft.column(this.#step, read, type.duck), needs: cell.needs });
    }
  }

  /** A row without a counterpart gets NULL. */
  async #lookup({ table, on, set }: Lookup): Promise<void> {
    if (this.#stages.length > 0) throw new Fault('config_invalid', 'a lookup behind a module is not possible: put it before');
    const schema = this.#options.lookups.get(table);
    if (!schema) throw new Fault('config_invalid', `there is no captured table ${table} to look up in`);
    const at = (name: string) => schema.columns.findIndex((column) => column.name === name);
    const key = keyColumns(schema).map((c) => schema.columns[c]?.name as string);
    if (key.length === 0 || key.toSorted().join() !== Object.keys(on).toSorted().join())
      throw new Fault(
        'config_invalid',
        key.length === 0 ? `${table} has no key to look up by` : `"on" must name the key of ${table}: ${key.join(', ')}`,
      );
    const needs = new Set<number>();
    const keys = [];
    for (const [name, text] of Object.entries(on)) {
      const type = sqlTypeOf(schema.columns[at(name)] as ColumnSchema);
      const parsed = await this.#expression(text);
      const found = await this.#typeOf(parsed.sql);
      if ((found === 'VARCHAR') !== (type.duck === 'VARCHAR'))
        throw new Fault('config_invalid', `${table}.${name} is of type ${type.duck}, but "${text}" of ${found}: cast it`);
      await this.#typeOf(`CAST(NULL AS ${type.duck}) = (${parsed.sql})`);
      for (const need of parsed.needs) needs.add(need);
      keys.push({ cell: `c${at(name)}`, type, sql: parsed.sql });
    }
    const columns = Object.values(set).map((name) => {
      const column = schema.columns[at(name)];
      if (!column) throw new Fault('config_invalid', `${table} has no column "${name}"`);
      return { cell: `c${at(name)}`, type: sqlTypeOf(column) };
    });
    const aliases = this.#draft.join(this.#step, { rows: keptRows(table), on: keys, columns });
    Object.keys(set).forEach((name, i) => {
      this.#put({ name, type: columns[i]?.type as SqlType, ref: null, alias: aliases[i] as string, needs });
    });
  }

  async #module(file: string, code: string): Promise<void> {
    const { source, input, transform } = this.#options;
    const module = await loadModule(code);
    const types = Object.entries(module.columns).map(([name, text]): [string, SqlType] => {
      const type = namedType(String(text));
      if (!type) throw new Fault('config_invalid', `${file}: column "${name}": the type "${String(text)}" is not known`);
      return [name, type];
    });
    this.#cut();
    const read = module.reads ? module.reads.map((name) => this.#cell(name)) : this.#cells;
    const given = types.map(([name]) => ({ name, slot: this.#slots++ }));
    const loads = read.map(({ name, ref, type }) => ({ name, ref: ref as Ref, type }));
    const context = { transform: transform.name, source, table: tableName(input) };
    const stage = new ModuleStage({ file, step: this.#step, module, context, loads, given });
    this.#stages.push({ stage, draft: null, given: [] });
    const needs = new Set(read.flatMap((cell) => [...cell.needs]));
    this.#filters = true;
    for (const need of needs) this.#filterNeeds.add(need);
    for (const [i, [name, type]] of types.entries()) {
      const ref = { slot: given[i]?.slot as number };
      if (type.duck === 'VARCHAR') this.#put({ name, type, ref, alias: null, needs });
      else {
        const text = this.#draft.load(ref, TEXT_TYPE);
        this.#put({ name, type, ref: null, alias: this.#draft.column(this.#step, type.read(text), type.duck), needs });
      }
    }
  }

  /** What SQL has computed so far is put down, for a step that is not SQL. */
  #cut(): void {
    if (this.#draft.empty) return;
    const given: Given[] = [];
    const rest = (cell: Cell): Cell => {
      if (cell.ref) return { ...cell, alias: null };
      const slot = this.#slots++;
      given.push({ slot, text: cell.type.write(cell.alias as string) });
      return { ...cell, ref: { slot }, alias: null };
    };
    this.#cells = this.#cells.map(rest);
    if (this.#route) this.#route = rest(this.#route);
    this.#stages.push({ stage: this.#draft.finish(given), draft: this.#draft, given });
    this.#draft = new StageDraft();
  }

  /** The first condition that holds says where a row goes; where none does, it does not pass. */
  async #routes(tables: Readonly<Record<string, string>>): Promise<void> {
    const cases: string[] = [];
    const needs = new Set<number>();
    for (const [i, [table, condition]] of Object.entries(tables).entries()) {
      const parsed = await this.#expression(condition);
      const type = await this.#typeOf(parsed.sql);
      if (type !== 'BOOLEAN') throw new Fault('config_invalid', `${table}: expected a condition, but this is of type ${type}`);
      cases.push(`WHEN ${parsed.sql} THEN ${i}`);
      for (const need of parsed.needs) needs.add(need);
    }
    const alias = this.#draft.column(this.#step, `CASE ${cases.join(' ')} END`, 'INTEGER');
    this.#draft.where(this.#step, `${alias} IS NOT NULL`);
    this.#filters = true;
    for (const need of needs) this.#filterNeeds.add(need);
    this.#route = { name: '', type: namedType('integer') as SqlType, ref: null, alias, needs };
    this.#tables = Object.keys(tables).map((table) => [table, null]);
  }

  async #expression(text: string): Promise<{ sql: string; needs: ReadonlySet<number> }> {
    const { expressions, source } = this.#options;
    const { sql, columns } = await expressions.parse(text, (name) => {
      const cell = this.#find(name);
      if (cell) return this.#alias(cell);
      return name === 'source' ? duckLiteral(source) : null;
    });
    return { sql, needs: new Set(columns.flatMap((name) => [...(this.#find(name)?.needs ?? [])])) };
  }

  async #typeOf(sql: string): Promise<string> {
    return this.#options.expressions.typeOf(sql, this.#draft.types);
  }

  #alias(cell: Cell): string {
    return cell.alias ?? this.#draft.load(cell.ref as Ref, cell.type);
  }

  #find(name: string): Cell | null {
    return this.#cells.find((cell) => cell.name === name) ?? null;
  }

  #cell(name: string): Cell {
    const cell = this.#find(name);
    if (!cell) throw new Fault('config_invalid', `there is no column "${name}"`);
    return cell;
  }

  #put(cell: Cell): void {
    const at = this.#cells.findIndex((one) => one.name === cell.name);
    if (at === -1) this.#cells.push(cell);
    else this.#cells[at] = cell;
  }

  finish(): Plan {
    const { input, source } = this.#options;
    this.#cut();
    const columnOf = (cell: Cell): PlanColumn => ({
      name: cell.name,
      type: cell.type,
      ref: cell.ref as Ref,
      needs: [...cell.needs],
    });
    const columns = this.#cells.map(columnOf);
    const names = this.#keyNames();
    const known = new Set(keyColumns(input));
    const key = columns.filter((column) => names.includes(column.name));
    const plan = {
      input,
      source,
      stages: this.#stages.map(({ stage }) => stage),
      columns,
      targets: this.#tables.map(([table, chosen]) => this.#target(table, chosen, names)),
      route: this.#route && columnOf(this.#route),
      filters: this.#filters,
      modules: this.#stages.some(({ stage }) => stage instanceof ModuleStage),
      filterNeeds: [...this.#filterNeeds],
      keyFollows: names.length > 0 && key.every((column) => column.needs.every((need) => known.has(need))),
    };
    return { ...plan, keyOnly: this.#keyOnly(plan, key) };
  }

  #keyOnly(plan: Steps, key: readonly PlanColumn[]): Steps {
    const slots = key.flatMap(({ ref }) => ('slot' in ref ? [ref.slot] : []));
    const [first] = this.#stages;
    const only = slots.map((slot, i) => {
      const text = first?.given.find((one) => one.slot === slot)?.text;
      if (text !== undefined) return { text, slot: i };
      throw new Fault(
        'config_invalid',
        `transform ${this.#options.transform.name}: the key is computed by a module, or behind one: compute it before`,
      );
    });
    const columns = key.map((column) =>
      'slot' in column.ref ? { ...column, ref: { slot: slots.indexOf(column.ref.slot) } } : column,
    );
    const stages = first?.draft && only.length > 0 ? [first.draft.finish(only, { filters: false })] : [];
    return { input: plan.input, source: plan.source, stages, columns, route: null };
  }

  /** The key asked for, or the input's under the names that its columns have now. */
  #keyNames(): readonly string[] {
    const { transform, input, source } = this.#options;
    if (transform.key) {
      const missing = transform.key.find((name) => !this.#find(name));
      if (missing === undefined) return transform.key;
      throw new Fault(
        'config_invalid',
        `transform ${transform.name}: the key "${missing}" does not come out of ${source}.${tableName(input)}`,
      );
    }
    return keyColumns(input).map((c) => {
      const cell = this.#cells.find((one) => one.ref && 'input' in one.ref && one.ref.input === c);
      if (cell) return cell.name;
      throw new Fault(
        'config_invalid',
        `transform ${transform.name}: the key column "${input.columns[c]?.name}" of ${source}.${tableName(input)} does not come out as it is: name the columns that make a row unique by "key"`,
      );
    });
  }

  #target(table: string, chosen: readonly string[] | null, key: readonly string[]): Target {
    const { input, transform } = this.#options;
    const cells = chosen ? chosen.map((name) => this.#cell(name)) : this.#cells;
    const lost = key.find((name) => !cells.some((cell) => cell.name === name));
    if (lost !== undefined)
      throw new Fault('config_invalid', `transform ${transform.name}: table ${table} needs the key column "${lost}"`);
    const [schema, name] = table.split(/\.(.*)/) as [string, string];
    const columns = cells.map(
      (cell): ColumnSchema => ({
        name: cell.name,
        type: cell.type.type,
        typmod: cell.type.typmod,
        sqlType: cell.type.sqlType,
        key: key.indexOf(cell.name) + 1,
      }),
    );
    const identity = input.identity === 'full' || input.identity === 'nothing' ? input.identity : 'default';
    return { schema: { schema, table: name, identity, columns }, columns: cells.map((cell) => this.#cells.indexOf(cell)) };
  }
}
