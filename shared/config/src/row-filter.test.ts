import { describe, expect, it } from 'vitest';
import { configOf } from './load.ts';
import { parseRowFilter } from './row-filter.ts';

const among = (dimension: string, ...values: object[]) => ({ kind: 'among', dimension, values });

describe('row filters', () => {
  const parsed = (text: string) => parseRowFilter(text, ['country', 'channel']);

  it('are taken apart as SQL would be', () => {
    expect(parsed('country IN (:claims.countries)')).toEqual(among('country', { claim: 'countries' }));
    expect(parsed(`country = 'O''Hare' or NOT channel in ('web', :claims.c, 7) AND country is not null`)).toEqual({
      kind: 'any',
      of: [
        among('country', { text: "O'Hare" }),
        {
          kind: 'all',
          of: [
            { kind: 'not', of: among('channel', { text: 'web' }, { claim: 'c' }, { text: '7' }) },
            { kind: 'not', of: { kind: 'missing', dimension: 'country' } },
          ],
        },
      ],
    });
    expect(parsed('(country <> :claims.home OR channel IS NULL) AND country NOT IN (:claims.out)')).toMatchObject({
      kind: 'all',
      of: [{ kind: 'any' }, { kind: 'not', of: among('country', { claim: 'out' }) }],
    });
  });

  it('name dimensions alone, and say at which character they do not', () => {
    const wrong: readonly [string, RegExp][] = [
      [`amount = 5`, /character 1: there is no dimension amount. Dimensions: country, channel/],
      [`country > 'DE'`, /character 9: ">" means nothing here/],
      [`country = channel`, /character 11: expected 'text', a number or :claims.NAME, not "channel"/],
      [`country = 'DE' country`, /character 16: expected AND, OR, or nothing more, not "country"/],
      [`country IN ()`, /character 13: expected 'text', a number or :claims.NAME, not "\)"/],
      [`country IN (SELECT 1)`, /character 13: .*not "SELECT"/],
      [`country = 'DE'; DROP TABLE x`, /character 15: ";" means nothing here/],
      [`country = 'DE`, /character 11: "'" means nothing here/],
      [`:claims.admin = 'x'`, /character 1: expected a dimension, not :claims.admin/],
      [`country IN (:claims.a`, /character 22: expected "\)", not the end/],
      [`${'('.repeat(40)}country IS NULL${')'.repeat(40)}`, /is more than 20 deep/],
    ];
    for (const [text, complaint] of wrong) expect(() => parsed(text), text).toThrow(complaint);
  });

  it('and readers are checked with the config, with line and column', () => {
    const kpi = (access: string) => `kind: Source
name: shop
postgres: "postgres://u:p@nowhere/shop"
---
kind: Cluster
http: { tokens: [{ name: bi, token: 0123456789abcdef, role: viewer, claims: { countries: [DE, 7], home: DE } }] }
---
kind: Kpi
name: sales
from: { o: shop.orders }
dimensions: { country: o.country }
measures: { n: { sql: "count(*)" } }
access:
  ${access}
`;
    const load = (access: string) => configOf([{ name: 'a.yaml', text: kpi(access) }], { env: {} });
    const { cluster, kpis } = load('{ read: [bi, operator], row_filter: "country IN (:claims.countries)" }');
    expect(cluster.http.tokens[0]?.claims).toEqual({ countries: ['DE', '7'], home: ['DE'] });
    expect(kpis[0]?.access).toEqual({ read: ['bi', 'operator'], rowFilter: among('country', { claim: 'countries' }) });
    const at = (access: string) => () => load(access);
    expect(at('{ read: [nobody] }')).toThrow('a.yaml:14:5: "access.read": there is no token nobody');
    expect(at('{ read: [bi], row_filter: "city = \'x\'" }')).toThrow(
      'a.yaml:14:17: "access.row_filter": character 1: there is no dimension city. Dimensions: country',
    );
    expect(at('{ read: [] }')).toThrow('a.yaml:14:5: "access.read": expected names of tokens or roles');
    expect(at('{}')).toThrow('expected read, row_filter, or both');
    expect(() => configOf([{ name: 'a.yaml', text: kpi('{ read: [bi] }').replace('[DE, 7]', '[]') }], { env: {} })).toThrow(
      'expected at least one value',
    );
  });
});
