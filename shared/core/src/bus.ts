/**
 * Questions and answers between processes: `status` asks every worker, a command asks one actor.
 * Nothing durable passes here; whatever must survive goes through a changelog.
 */
export interface Bus {
  /**
   * Answers questions on `subject` until the returned function is called. Each yielded value is one part of the answer. A question that was on its way
   * then is refused as if nobody served the subject; one that was taken before is answered.
   */
  serve(subject: string, answer: (question: unknown) => AsyncIterable<unknown>): Promise<() => Promise<void>>;
  /**
   * Asks whoever serves `subject` and yields the parts of the answer as they come.
   * @throws Fault `not_found` when nobody serves the subject; `worker_lost` when whoever took the question no longer lives; Fault as sent by the answerer
   */
  ask(subject: string, question: unknown, options?: AskOptions): AsyncIterable<unknown>;
  /** Tells everyone who listens; nobody listening is fine. */
  tell(subject: string, value: unknown): void;
  listen(subject: string, heard: (value: unknown, subject: string) => void): Promise<() => Promise<void>>;
}

export interface AskOptions {
  /** Gives up when no part arrives for this long. Default 60,000. */
  readonly idleMs?: number;
  /** Gives up when whoever answers, who says while he works that he is there, says nothing at all for this long. Default 10,000: as long as a lease lives. */
  readonly lostMs?: number;
  readonly signal?: AbortSignal;
}

/** The single answer to a question that has one. */
export async function askOne<T>(bus: Pick<Bus, 'ask'>, subject: string, question: unknown, options?: AskOptions): Promise<T> {
  let last: unknown;
  for await (const part of bus.ask(subject, question, options)) last = part;
  return last as T;
}
