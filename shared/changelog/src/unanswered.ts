/** Answers that are waited for until the connection breaks: after that none comes, and the client would wait for its time limit. */
export class Unanswered {
  readonly #rejects = new Set<(failure: unknown) => void>();

  /** Settles as `answer` does, or rejects as soon as {@link fail} is called. */
  wait<T>(answer: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#rejects.add(reject);
      answer.then(resolve, reject).finally(() => this.#rejects.delete(reject));
    });
  }

  fail(failure: unknown): void {
    for (const reject of this.#rejects) reject(failure);
  }
}
