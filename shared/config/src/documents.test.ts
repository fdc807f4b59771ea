import { describe, expect, it } from 'vitest';
import { compareDocuments, holdsSecret } from './documents.ts';

const file = (text: string) => [{ name: 'a.yaml', text }];

describe('two desired states', () => {
  it('differ by documents, not by comments, order or files', () => {
    const before = file('# ours\nkind: Source\nname: a\npostgres: x\n---\nkind: Source\nname: b\npostgres: y');
    const same = [...file('kind: Source\npostgres: y\nname: b'), ...file('kind: Source\nname: a\npostgres: x')];
    expect(compareDocuments(before, same)).toEqual([]);
    const other = file('kind: Cluster\n---\nkind: Source\nname: a\npostgres: z\n---\nkind: Sink\nname: b\ntype: lake');
    expect(compareDocuments(before, other)).toEqual([
      { change: 'added', kind: 'Cluster', name: null },
      { change: 'changed', kind: 'Source', name: 'a' },
      { change: 'added', kind: 'Sink', name: 'b' },
      { change: 'removed', kind: 'Source', name: 'b' },
    ]);
  });

  it('hold a secret where it is written out, not where it is named', () => {
    const source = (postgres: string) => holdsSecret(file(`kind: Source\nname: a\npostgres: ${postgres}`));
    expect(source('"postgres://me:hunter2@host/db"')).toBe(true);
    expect(source('{ host: h, user: u, database: d, password: hunter2 }')).toBe(true);
    expect(source('"postgres://me@host/db"')).toBe(false);
    expect(source('"${env:URL}"')).toBe(false);
    expect(source('"postgres://me:${env:PASSWORD}@host/db"')).toBe(false);
    expect(source('{ host: h, user: u, database: d, password: "${file:/run/secrets/p}" }')).toBe(false);
    expect(holdsSecret(file('kind: Cluster\nhttp: { tokens: [{ name: ops, token: abcdefghijklmnopq, role: admin }] }'))).toBe(
      true,
    );
  });
});
