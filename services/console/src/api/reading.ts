/** It is said this often that a slow listener is still there; whoever asks gives up after a few times that. */
const STILL_MS = 1_000;

/** How far a listener has read what it is told, for the worker that tells it: that makes the next part only then, so that none pile up. */
export class Reading {
  #parts = 0;
  #ended = false;
  #wake: () => void = () => {};

  /** It read one part more. */
  took(): void {
    this.#parts++;
    this.#wake();
  }

  /** It reads no more. */
  end(): void {
    this.#ended = true;
    this.#wake();
  }

  /** Answers a question on the line of a stream: says that it reads until it has read so many parts. */
  async *until(question: unknown): AsyncGenerator<object> {
    // A worker of another version asks only whether somebody is there.
    const { parts = 0 } = question as { readonly parts?: number };
    while (this.#parts < parts && !this.#ended) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        timer = setTimeout(resolve, STILL_MS);
      });
      clearTimeout(timer);
      if (this.#parts < parts && !this.#ended) yield { reading: true };
    }
    yield { parts: this.#parts };
  }
}
