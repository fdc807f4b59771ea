import { pino } from 'pino';

/** The four levels that services use; facts first, then a sentence. Never row values, never secrets. */
export interface OpsLog {
  debug(facts: object, message: string): void;
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

export interface LogOptions {
  readonly worker: string;
  /** Default: TRIBUTARY_LOG, else `info`. */
  readonly level?: string;
}

/** JSON lines on stderr: stdout belongs to results. Written synchronously, so that a crash loses none. */
export function openLog({ worker, level }: LogOptions): OpsLog {
  return pino(
    {
      base: { worker },
      level: level ?? process.env['TRIBUTARY_LOG'] ?? 'info',
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { cause: (value: unknown) => String(value) },
    },
    pino.destination({ dest: 2, sync: true }),
  );
}
