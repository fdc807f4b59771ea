/** How long until an event is sent again: doubling, up to a bound, and shortened by chance by up to a half, so that many do not come at once. */
export class Backoff {
  readonly #firstMs: number;
  readonly #mostMs: number;
  readonly #chance: () => number;

  /** @param chance 0 … 1 */
  constructor({ firstMs, mostMs }: { readonly firstMs: number; readonly mostMs: number }, chance: () => number) {
    this.#firstMs = firstMs;
    this.#mostMs = mostMs;
    this.#chance = chance;
  }

  /** @param attempts so many failed @param askedMs how long the receiver asked to wait, if it did: never less than that */
  ms(attempts: number, askedMs: number | null): number {
    const whole = Math.min(this.#mostMs, this.#firstMs * 2 ** Math.min(attempts - 1, 40));
    return Math.max(whole * (1 - this.#chance() / 2), askedMs ?? 0);
  }
}
