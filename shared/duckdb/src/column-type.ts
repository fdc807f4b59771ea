import type { ColumnSchema, PgType } from '@tributary/core';

/** How a column looks to people who query it. The exact text is kept beside it where the type cannot hold every value. */
export interface TypedColumn {
  readonly name: string;
  readonly type: string;
  /** SQL over the quoted text column. */
  readonly typed: (text: string) => string;
  /** Some values of the PostgreSQL type have no place in the DuckDB type. */
  readonly lossy: boolean;
}

const PLAIN: Readonly<Record<string, string>> = {
  bool: 'BOOLEAN',
  int2: 'SMALLINT',
  int4: 'INTEGER',
  int8: 'BIGINT',
  oid: 'UINTEGER',
  float4: 'FLOAT',
  float8: 'DOUBLE',
  uuid: 'UUID',
};
const LOSSY: Readonly<Record<string, string>> = {
  date: 'DATE',
  timestamp: 'TIMESTAMP',
  timestamptz: 'TIMESTAMPTZ',
  time: 'TIME',
};

/** numeric(p ≤ 38, s) is a decimal; what has no natural counterpart stays text, exactly as PostgreSQL writes it. */
export function typedColumn(column: ColumnSchema): TypedColumn {
  const { type, typmod } = base(column.type, column.typmod);
  const cast = (duck: string, lossy: boolean): TypedColumn => ({
    name: column.name,
    type: duck,
    typed: (text) => `TRY_CAST(${text} AS ${duck})`,
    lossy,
  });
  if (type.schema === 'pg_catalog' && type.kind === 'base') {
    const plain = PLAIN[type.name];
    if (plain) return cast(plain, false);
    const lossy = LOSSY[type.name];
    if (lossy) return cast(lossy, true);
    if (type.name === 'numeric' && typmod >= 4) {
      const precision = ((typmod - 4) >> 16) & 0xffff;
      const scale = (((typmod - 4) & 0x7ff) ^ 1024) - 1024;
      if (precision <= 38 && scale >= 0 && scale <= precision) return cast(`DECIMAL(${precision},${scale})`, true);
    }
    if (type.name === 'bytea') {
      return { name: column.name, type: 'BLOB', typed: (text) => `unhex(substr(${text}, 3))`, lossy: false };
    }
  }
  return { name: column.name, type: 'VARCHAR', typed: (text) => text, lossy: false };
}

function base(type: PgType, typmod: number): { type: PgType; typmod: number } {
  return type.kind === 'domain' ? base(type.of as PgType, type.typmod ?? -1) : { type, typmod };
}
