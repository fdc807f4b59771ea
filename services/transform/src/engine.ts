import type { TransformConfig } from '@tributary/config';
import type { Database, Duck } from '@tributary/duckdb';
import { Plans } from './definition.ts';
import { Evaluator } from './evaluator.ts';
import { Expressions } from './expression.ts';

/** A connection on which expressions mean what they mean to PostgreSQL. */
export async function connect(database: Database): Promise<Duck> {
  const duck = await database.connect();
  await duck.run('SET integer_division = true');
  return duck;
}

/** What understands the steps, and what runs them, on one connection. */
export interface Machinery {
  readonly plans: Plans;
  readonly evaluator: Evaluator;
}

export function machineryOf(transform: TransformConfig, duck: Duck): Machinery {
  return { plans: new Plans(transform, new Expressions(duck)), evaluator: new Evaluator(duck, transform.name) };
}
