import { afterAll, beforeAll, expect, it } from 'vitest';
import { among } from './among.ts';
import { Database, type Duck } from './database.ts';

let database: Database;
let duck: Duck;
beforeAll(async () => {
  database = await Database.open({ path: ':memory:', memoryBytes: 64 * 2 ** 20, threads: 1, spillDir: '' });
  duck = await database.connect();
});
afterAll(() => {
  duck.close();
  database.close();
});

it.each([
  ['none', []],
  ['an empty one', ['']],
  ['many', Array.from({ length: 5_000 }, (_, i) => `é"'\n${i}`)],
  ['one that holds the separator', ['a', 'b\x1fc', '']],
])('texts come into a statement as they are, in their order: %s', async (_, texts) => {
  const { each, value } = among(texts, 2);
  const { text, n } = await duck.columns(`SELECT ${each} AS text, $1::BIGINT AS n`, ['7', value]);
  expect(text).toEqual(texts);
  expect(n).toEqual(texts.map(() => 7n));
});
