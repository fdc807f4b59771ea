import { z } from 'zod';

/** Where a PostgreSQL database is and who we are there, in the form the pg client takes. */
export interface ConnectionConfig {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password?: string;
  readonly database: string;
  readonly ssl?: false | { readonly rejectUnauthorized: boolean };
}

const fields = z.strictObject({
  host: z.string().min(1),
  port: z.number().int().min(1).max(65_535).default(5432),
  user: z.string().min(1),
  password: z.string().optional(),
  database: z.string().min(1),
  ssl: z.boolean().default(false),
});

/** A URL `postgres://user:password@host:port/database?sslmode=…`, or its parts by name. */
export const connection = z
  .union([z.string(), fields], {
    error: 'expected postgres://user:password@host:port/database, or host, port, user, password and database',
  })
  .transform((value, context): ConnectionConfig => {
    if (typeof value !== 'string') {
      const { ssl, password, ...rest } = value;
      return { ...rest, ...(password === undefined ? {} : { password }), ssl: ssl ? { rejectUnauthorized: true } : false };
    }
    const parsed = parseUrl(value);
    if (typeof parsed !== 'string') return parsed;
    context.addIssue({ code: 'custom', message: parsed });
    return z.NEVER;
  });

/** @returns the connection, or what is wrong with the URL (never the URL itself: it may hold a password) */
function parseUrl(text: string): ConnectionConfig | string {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    return 'expected postgres://user:password@host:port/database';
  }
  if (url.protocol !== 'postgres:' && url.protocol !== 'postgresql:') return 'expected a URL that begins with postgres://';
  const database = decodeURIComponent(url.pathname.slice(1));
  if (!url.hostname || !database || !url.username)
    return 'the URL must name user, host and database: postgres://user:password@host:port/database';
  return {
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port ? Number(url.port) : 5432,
    user: decodeURIComponent(url.username),
    ...(url.password ? { password: decodeURIComponent(url.password) } : {}),
    database,
    ssl: tls(url.searchParams.get('sslmode')),
  };
}

/** libpq's `require` encrypts without checking the certificate; `verify-ca` and `verify-full` check it. */
function tls(mode: string | null): false | { rejectUnauthorized: boolean } {
  if (mode === 'require') return { rejectUnauthorized: false };
  return mode === 'verify-ca' || mode === 'verify-full' ? { rejectUnauthorized: true } : false;
}
