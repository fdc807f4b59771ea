import type { KpiReader, RowFilter } from '@tributary/config';
import { describe, expect, it } from 'vitest';
import { EVERYTHING, scopeOf } from './access.ts';

const token = (name: string, role: 'viewer' | 'analyst' | 'admin', claims: Record<string, string[]> = {}): KpiReader => ({
  name,
  role,
  claims,
});
const among = (dimension: string, ...values: ({ claim: string } | { text: string })[]): RowFilter => ({
  kind: 'among',
  dimension,
  values,
});
const COUNTRIES = among('country', { claim: 'countries' });

describe('who may read a KPI', () => {
  const scope = (access: { read?: string[]; rowFilter?: RowFilter } | null, reader?: KpiReader) =>
    scopeOf({ name: 'sales', access: access && { read: null, rowFilter: null, ...access } }, reader);

  it('is everyone without access, and the command line always', () => {
    expect(scope(null)).toBe(EVERYTHING);
    expect(scope({ read: ['bi'], rowFilter: COUNTRIES }, 'local')).toBe(EVERYTHING);
  });

  it('is a named token, or a role or one above it', () => {
    expect(scope({ read: ['bi'] }, token('bi', 'viewer'))).toBe(EVERYTHING);
    expect(scope({ read: ['analyst'] }, token('x', 'admin'))).toBe(EVERYTHING);
    expect(() => scope({ read: ['bi'] }, token('x', 'admin'))).toThrow('the token x (admin) is not among those');
    expect(() => scope({ read: ['analyst'] }, token('x', 'viewer'))).toThrow('not among those');
    // A token does not become an admin by being called so.
    expect(() => scope({ read: ['admin'] }, token('admin', 'viewer'))).toThrow('not among those');
  });

  it('is nobody who does not say who asks, or lacks a claim', () => {
    expect(() => scope({ read: ['viewer'] })).toThrow('does not say who asks');
    expect(() => scope({ rowFilter: COUNTRIES })).toThrow('does not say who asks');
    expect(() => scope({ rowFilter: COUNTRIES }, token('x', 'admin'))).toThrow('the token x has no claim "countries"');
    // Not even where another part of the filter would do, or through what every object has.
    const either: RowFilter = { kind: 'any', of: [{ kind: 'missing', dimension: 'country' }, among('country', { claim: 'b' })] };
    expect(() => scope({ rowFilter: either }, token('x', 'admin'))).toThrow('has no claim "b"');
    const inherited = among('country', { claim: 'constructor' });
    expect(() => scope({ rowFilter: inherited }, token('x', 'admin'))).toThrow('has no claim "constructor"');
  });

  it('binds values, and tells readers apart by what they see', () => {
    const filter: RowFilter = {
      kind: 'all',
      of: [COUNTRIES, { kind: 'not', of: among('channel', { text: `'; DROP TABLE x` }) }],
    };
    const seen = scope({ rowFilter: filter }, token('x', 'viewer', { countries: ['DE', `') OR true --`] }));
    expect(seen.values).toEqual(['DE', `') OR true --`, `'; DROP TABLE x`]);
    expect(seen.condition?.((name) => `o.${name}`)).toBe(
      '((o.country::VARCHAR IN ($1, $2)) AND (NOT (o.channel::VARCHAR IN ($3))))',
    );
    const tag = (countries: string[], rowFilter = COUNTRIES) => scope({ rowFilter }, token('y', 'viewer', { countries })).tag;
    expect(tag(['DE'])).toBe(tag(['DE']));
    expect(new Set([tag(['DE']), tag(['DE', 'AT']), tag(['DE,AT']), tag(['DE'], { kind: 'not', of: COUNTRIES })]).size).toBe(4);
  });
});
