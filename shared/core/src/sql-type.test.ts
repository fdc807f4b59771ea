import { describe, expect, it } from 'vitest';
import { canonicalType, holdsType, typmodOf } from './sql-type.ts';

describe('the name of a type', () => {
  it.each([
    ['int8', 'bigint'],
    ['INT', 'integer'],
    ['varchar(20)', 'character varying(20)'],
    ['character  varying ( 20 )', 'character varying(20)'],
    ['decimal(12, 2)', 'numeric(12,2)'],
    ['numeric(12)', 'numeric(12,0)'],
    ['char', 'character(1)'],
    ['timestamptz', 'timestamp with time zone'],
    ['timestamptz(3)', 'timestamp(3) with time zone'],
    ['time', 'time without time zone'],
    ['timestamp(3) with time zone', 'timestamp(3) with time zone'],
    ['float8', 'double precision'],
    ['pg_catalog.int4', 'integer'],
    ['int8[]', 'bigint[]'],
    ['text[][]', 'text[]'],
    ['shop.mood', 'shop.mood'],
    ['"Shop"."Mood"', '"Shop"."Mood"'],
  ])('%s is %s', (text, canonical) => {
    expect(canonicalType(text)).toBe(canonical);
    expect(canonicalType(canonical)).toBe(canonical);
  });

  it.each(['', 'numeric(', 'big int', 'a.b.c', 'text; DROP TABLE t', 'int)'])('%j is none', (text) => {
    expect(canonicalType(text)).toBeNull();
  });
});

describe('a column may hold less than was promised, never something else', () => {
  it.each([
    ['bigint', 'integer'],
    ['bigint', 'smallint'],
    ['numeric', 'bigint'],
    ['numeric(20,1)', 'bigint'],
    ['numeric', 'numeric(12,2)'],
    ['numeric(12,2)', 'numeric(10,2)'],
    ['numeric(12,2)', 'numeric(11,1)'],
    ['text', 'character varying(20)'],
    ['character varying', 'character varying(20)'],
    ['character varying(20)', 'character varying(10)'],
    ['timestamp with time zone', 'timestamp(3) with time zone'],
    ['timestamp(6) without time zone', 'timestamp without time zone'],
    ['double precision', 'real'],
    ['mood', 'shop.mood'],
    ['shop.mood', 'shop.mood'],
    ['bigint[]', 'integer[]'],
    ['character(3)', 'character(3)'],
  ])('%s: %s will do', (promised, actual) => {
    expect(holdsType(promised, actual)).toBe(true);
  });

  it.each([
    ['integer', 'bigint'],
    ['bigint', 'text'],
    ['bigint', 'numeric(19,0)'],
    ['numeric(20,2)', 'bigint'],
    ['numeric(12,2)', 'numeric'],
    ['numeric(12,2)', 'numeric(12,3)'],
    ['numeric(12,2)', 'numeric(12,1)'],
    ['character varying(10)', 'character varying(20)'],
    ['character varying(10)', 'character varying'],
    ['character varying', 'text'],
    ['text', 'integer'],
    ['timestamp with time zone', 'timestamp without time zone'],
    ['timestamp(3) with time zone', 'timestamp with time zone'],
    ['shop.mood', 'other.mood'],
    ['text', 'text[]'],
    ['character(3)', 'character(2)'],
  ])('%s: not %s', (promised, actual) => {
    expect(holdsType(promised, actual)).toBe(false);
  });
});

it("PostgreSQL's modifier of a type", () => {
  expect(
    ['numeric(12,2)', 'numeric(5,-2)', 'character varying(20)', 'timestamp(3) with time zone', 'bigint'].map(typmodOf),
  ).toEqual([786_438, 329_730, 24, 3, -1]);
});
