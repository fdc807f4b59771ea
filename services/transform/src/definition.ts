import { createHash } from 'node:crypto';
import type { TransformConfig } from '@tributary/config';
import { tableName, type TableSchema } from '@tributary/core';
import type { Expressions } from './expression.ts';
import { type Plan, planOf } from './plan.ts';

/** Fingerprint of everything that decides what comes out. */
export function definitionOf({ name, from, to, steps, key }: TransformConfig): string {
  const text = JSON.stringify([name, from, to ?? null, steps, key ?? null]);
  return createHash('sha256').update(text).digest('base64url').slice(0, 12);
}

/** Tables (`schema.table`) that rows of a table of an input go to. */
export function targetNames({ to, steps }: Pick<TransformConfig, 'to' | 'steps'>, table: string): readonly string[] {
  const last = steps.at(-1);
  if (last?.kind === 'route' || last?.kind === 'split') return Object.keys(last.tables);
  return [to ?? table];
}

/** Plans by table and shape: each is worked out once, and again when a table that it looks up in has another shape. */
export class Plans {
  readonly #transform: TransformConfig;
  readonly #expressions: Expressions;
  readonly #plans = new Map<string, Promise<Plan>>();
  readonly #lookups = new Map<string, TableSchema>();

  constructor(transform: TransformConfig, expressions: Expressions) {
    this.#transform = transform;
    this.#expressions = expressions;
  }

  /** @param id `SOURCE.SCHEMA.TABLE` of a table that is looked up in */
  know(id: string, schema: TableSchema): void {
    this.#lookups.set(id, schema);
    this.#plans.clear();
  }

  /** @throws Fault `config_invalid` when the steps do not fit the table */
  of(source: string, input: TableSchema, version: string): Promise<Plan> {
    const id = `${source} ${tableName(input)} ${version}`;
    let plan = this.#plans.get(id);
    if (!plan) {
      const [transform, expressions, lookups] = [this.#transform, this.#expressions, this.#lookups];
      this.#plans.set(id, (plan = planOf({ transform, source, input, expressions, lookups })));
    }
    return plan;
  }
}
