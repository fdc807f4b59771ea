import { describeError } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import { databaseFault } from './fault.ts';

/** An error as the pg client makes it. */
function pgError(message: string, fields: Record<string, string>): Error {
  return Object.assign(new Error(message), fields);
}

describe('what a database error says', () => {
  it('names table and column of a COPY, never the value', () => {
    const fault = databaseFault(
      pgError('invalid input syntax for type integer: "s3cr3t"', {
        code: '22P02',
        where: 'COPY people, line 3, column note: "s3cr3t, column x: y"',
      }),
      'COPY INTO people',
    );
    expect(describeError(fault)).toBe(
      "COPY INTO people: a text is no value of its type, table people, column note (SQLSTATE 22P02; the server's log has its words)",
    );
    expect(fault.kind).toBe('database_rejected');
  });

  it.each([
    ['duplicate key value violates unique constraint "people_email_key"', { code: '23505', detail: 'Key (email)=(s3cr3t)' }],
    ['new row violates check constraint "c"', { code: '23514', detail: 'Failing row contains (s3cr3t).' }],
    ['the row s3cr3t is not welcome', { code: 'P0001' }],
    ['permission denied for s3cr3t', { code: '42501', routine: 'exec_stmt_raise' }],
    ['division of s3cr3t by zero', { code: '22012' }],
    ['anything with s3cr3t', { code: '99XYZ' }],
    ['extra data after last expected column', { code: '22P04', where: 'COPY people, line 1: "a, column b: s3cr3t"' }],
  ])('%s', (message, fields) => {
    const fault = databaseFault(pgError(message, fields as unknown as Record<string, string>), 'writing');
    expect(describeError(fault) + JSON.stringify(fault.facts)).not.toContain('s3cr3t');
    expect(fault.message).toContain(fields.code);
  });

  it.each([
    ['relation "people" does not exist', { code: '42P01' }],
    ['password authentication failed for user "me"', { code: '28P01' }],
    ['connect ECONNREFUSED 127.0.0.1:1', { code: 'ECONNREFUSED' }],
    ['Connection terminated unexpectedly', {}],
  ])('keeps what speaks of names and states: %s', (message, fields) => {
    expect(databaseFault(pgError(message, fields as Record<string, string>), 'reading').message).toBe(`reading: ${message}`);
  });
});
