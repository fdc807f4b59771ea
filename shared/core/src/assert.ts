/** A broken invariant: a bug, never an expected condition. The supervisor stops the actor loudly. */
export class AssertionFailed extends Error {
  constructor(message: string) {
    super(`invariant broken: ${message}`);
    this.name = 'AssertionFailed';
  }
}

export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionFailed(message);
}

/** Closes a discriminated union: the compiler proves that no case is missing. */
export function unreachable(value: never): never {
  throw new AssertionFailed(`unexpected value ${String(value)}`);
}
