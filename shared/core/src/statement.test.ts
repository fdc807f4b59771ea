import { describe, expect, it } from 'vitest';
import { firstWords } from './statement.ts';

describe('the first words of a statement', () => {
  it.each([
    [`INSERT INTO t2024\n  VALUES ('it''s secret')`, 'INSERT INTO t2024 VALUES (…'],
    [`SELECT E'a\\'secret' FROM t`, 'SELECT E…'],
    ['DO $body$ secret $body$', 'DO …'],
    ['SELECT * FROM t WHERE id IN (4711, 12.5)', 'SELECT * FROM t WHERE id IN (…, …)'],
    ['SELECT $1 FROM "2024" LIMIT 10', 'SELECT $1 FROM "2024" LIMIT …'],
  ])('%s', (sql, words) => expect(firstWords(sql)).toBe(words));

  it('are few', () => expect(firstWords('x'.repeat(500)).length).toBeLessThan(100));
});
