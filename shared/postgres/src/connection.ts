/** Where a PostgreSQL database is and who we are there (the same shape as in config). */
export interface ConnectionConfig {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password?: string;
  readonly database: string;
  readonly ssl?: false | { readonly rejectUnauthorized: boolean };
}

/** `user@host:port/database`, fit for messages: no password. */
export function describeConnection({ user, host, port, database }: ConnectionConfig): string {
  return `${user}@${host}:${port}/${database}`;
}
