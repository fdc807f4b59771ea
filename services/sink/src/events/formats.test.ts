import type { PgType } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import { parseArray } from './array-literal.ts';
import { jsonOf } from './json-values.ts';
import { behind, comparePlaces, type EventPlace, formatPlace, placeOf, sequenceOf } from './place.ts';
import { formatPosition, parsePosition } from './standing.ts';
import { Subjects, subjectWord } from './subject.ts';

const base = (name: string): PgType => ({ oid: 1, schema: 'pg_catalog', name, kind: 'base' });
const array = (of: PgType): PgType => ({ oid: 2, schema: 'pg_catalog', name: `_${of.name}`, kind: 'array', of });

describe('JSON of values', () => {
  it.each([
    ['bool', 't', 'true'],
    ['int4', '-7', '-7'],
    ['int8', '9223372036854775807', '"9223372036854775807"'],
    ['numeric', '1e-400', '"1e-400"'],
    ['float8', '1e+308', '1e+308'],
    ['float8', 'NaN', '"NaN"'],
    ['float4', '-Infinity', '"-Infinity"'],
    ['jsonb', '{"a": 1.10}', '{"a": 1.10}'],
    ['bytea', '\\x6869', '"aGk="'],
    ['timestamptz', '2026-01-31 12:00:00.000001+00', '"2026-01-31T12:00:00.000001Z"'],
    ['timestamp', '2026-01-31 12:00:00', '"2026-01-31T12:00:00"'],
    ['timestamptz', 'infinity', '"infinity"'],
    ['timestamptz', '0044-03-15 00:00:00+00 BC', '"0044-03-15 00:00:00+00 BC"'],
    ['date', '2026-01-31', '"2026-01-31"'],
    ['text', 'a "quoted"\n', '"a \\"quoted\\"\\n"'],
  ])('of %s %s', (name, text, json) => {
    expect(jsonOf(base(name))(text)).toBe(json);
    expect(() => JSON.parse(json)).not.toThrow();
  });

  it('of arrays: nested, with quotes, backslashes and NULL; with bounds of their own as text', () => {
    expect(jsonOf(array(base('int4')))('{{1,2},{NULL,4}}')).toBe('[[1,2],[null,4]]');
    expect(jsonOf(array(base('text')))('{"a,\\"b\\\\","NULL",NULL,"",c}')).toBe('["a,\\"b\\\\","NULL",null,"","c"]');
    expect(jsonOf(array(base('text')))('{}')).toBe('[]');
    expect(jsonOf(array(base('int4')))('[2:3]={1,2}')).toBe('"[2:3]={1,2}"');
    expect(parseArray('{1,2')).toBeNull();
    expect(parseArray('{1}2')).toBeNull();
  });

  it('of a domain is that of its base type', () => {
    expect(jsonOf({ ...base('age'), schema: 'public', kind: 'domain', of: base('int4') })('5')).toBe('5');
  });
});

describe('places of events', () => {
  const place = (lsn: bigint, ordinal: number, row = 0, part = 0): EventPlace => ({ lsn, ordinal, row, part });

  it('sort as text the way they compare, and come back from it', () => {
    const places = [
      place(1n, 1),
      place(1n, 2, 0, 1),
      place(1n, 10),
      place(1n, 2 ** 32 + 1, 1),
      place(1n, 2 ** 32 + 1, 20),
      behind({ lsn: 1n, ordinal: 2 ** 32 + 1 }),
      place(2n, 1),
      place(2n ** 63n, 1),
    ];
    expect(places.toSorted(comparePlaces)).toEqual(places);
    const texts = places.map(sequenceOf);
    expect(texts.toSorted()).toEqual(texts);
    expect(texts.map(placeOf)).toEqual(places);
    expect(new Set(places.map(formatPlace)).size).toBe(places.length);
    expect(placeOf('anything')).toBeNull();
  });

  it('positions come back from their text', () => {
    for (const position of [
      { seq: 7, lsn: 0x16_0000_00ffn, ordinal: 3, epoch: '74.a_b-c' },
      { seq: 0, lsn: 0n, ordinal: 0 },
    ])
      expect(parsePosition(formatPosition(position))).toEqual(position);
    expect(parsePosition('1;nonsense')).toBeNull();
  });
});

describe('subjects', () => {
  it('are filled in, and words are made fit for them', () => {
    const subjects = new Subjects('{sink}.{source}.{schema}.{table}.{op}', { sink: 'out', source: 'shop' });
    expect(subjects.all).toBe('out.shop.*.*.*');
    expect(subjects.of({ words: { schema: 'public', table: 'a.b $&ü', op: 'create' } })).toBe(
      'out.shop.public.a%2Eb%20%24%26%C3%BC.create',
    );
    expect(subjectWord('order_items-2')).toBe('order_items-2');
  });
});
