/** One at a time, in the order in which they asked. */
export class Turns {
  #last: Promise<void> = Promise.resolve();

  /** Waits for its turn. @returns the function that ends it */
  async take(): Promise<() => void> {
    const before = this.#last;
    let release: () => void = () => {};
    this.#last = new Promise((resolve) => (release = resolve));
    await before;
    return release;
  }
}
