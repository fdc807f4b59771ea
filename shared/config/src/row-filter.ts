/**
 * Which rows a reader may see: a condition on dimensions, whose values are written down or are claims of the reader. It is taken apart
 * here and never reaches DuckDB as text: a value is bound, a dimension is one of the definition's.
 */
export type RowFilter =
  | { readonly kind: 'all' | 'any'; readonly of: readonly RowFilter[] }
  | { readonly kind: 'not'; readonly of: RowFilter }
  /** The dimension is NULL. */
  | { readonly kind: 'missing'; readonly dimension: string }
  /** The dimension, as text, is one of these. */
  | { readonly kind: 'among'; readonly dimension: string; readonly values: readonly FilterValue[] };

/** A claim of several values stands for each of them. */
export type FilterValue = { readonly claim: string } | { readonly text: string };

/** What is wrong with a filter, and at which character of it. */
export class RowFilterError extends Error {}

interface Token {
  readonly kind: 'word' | 'text' | 'claim' | 'sign' | 'end';
  readonly text: string;
  /** Counted from 1. */
  readonly at: number;
}

const TOKEN = /\s*(?:'((?:[^']|'')*)'|:claims\.([a-z][a-z0-9_]*)|([A-Za-z_]\w*|\d+(?:\.\d+)?)|(<>|!=|[=(),])|(\S))/gy;
/** Parentheses and negations within each other. */
const DEPTH_MAX = 20;

/**
 *     filter     := both ("OR" both)*          both := single ("AND" single)*
 *     single     := "NOT" single | "(" filter ")" | DIMENSION compared
 *     compared   := ("=" | "<>" | "!=") value | ["NOT"] "IN" "(" value ("," value)* ")" | "IS" ["NOT"] "NULL"
 *     value      := 'TEXT' | NUMBER | ":claims.NAME"
 *
 * @throws RowFilterError that names the character, what was expected and what stands there
 */
export function parseRowFilter(text: string, dimensions: readonly string[]): RowFilter {
  return new RowFilterParser(text, dimensions).parse();
}

class RowFilterParser {
  readonly #tokens: readonly Token[];
  readonly #dimensions: readonly string[];
  #next = 0;
  #depth = 0;

  constructor(text: string, dimensions: readonly string[]) {
    this.#tokens = tokensOf(text);
    this.#dimensions = dimensions;
  }

  parse(): RowFilter {
    const filter = this.#either();
    if (this.#token.kind !== 'end') throw this.#unexpected('AND, OR, or nothing more');
    return filter;
  }

  get #token(): Token {
    return this.#tokens[this.#next] as Token;
  }

  #either(): RowFilter {
    const of = [this.#both()];
    while (this.#took('or')) of.push(this.#both());
    return of.length === 1 ? (of[0] as RowFilter) : { kind: 'any', of };
  }

  #both(): RowFilter {
    const of = [this.#single()];
    while (this.#took('and')) of.push(this.#single());
    return of.length === 1 ? (of[0] as RowFilter) : { kind: 'all', of };
  }

  #single(): RowFilter {
    if (++this.#depth > DEPTH_MAX) throw failed(this.#token, `is more than ${DEPTH_MAX} deep`);
    try {
      if (this.#took('not')) return { kind: 'not', of: this.#single() };
      if (!this.#took('(')) return this.#compared(this.#dimension());
      const inner = this.#either();
      this.#expect(')');
      return inner;
    } finally {
      this.#depth--;
    }
  }

  #compared(dimension: string): RowFilter {
    const among = (values: readonly FilterValue[]): RowFilter => ({ kind: 'among', dimension, values });
    if (this.#took('=')) return among([this.#value()]);
    if (this.#took('<>') || this.#took('!=')) return { kind: 'not', of: among([this.#value()]) };
    if (this.#took('is')) {
      const there = this.#took('not');
      this.#expect('null');
      const missing: RowFilter = { kind: 'missing', dimension };
      return there ? { kind: 'not', of: missing } : missing;
    }
    const out = this.#took('not');
    if (!this.#took('in')) throw this.#unexpected(out ? 'IN' : '=, <>, IN, NOT IN or IS');
    this.#expect('(');
    const values = [this.#value()];
    while (this.#took(',')) values.push(this.#value());
    this.#expect(')');
    return out ? { kind: 'not', of: among(values) } : among(values);
  }

  #dimension(): string {
    const { kind, text } = this.#token;
    if (kind !== 'word') throw this.#unexpected('a dimension');
    if (!this.#dimensions.includes(text))
      throw failed(this.#token, `there is no dimension ${text}. Dimensions: ${this.#dimensions.join(', ') || 'none'}`);
    this.#next++;
    return text;
  }

  #value(): FilterValue {
    const { kind, text } = this.#token;
    if (kind !== 'text' && kind !== 'claim' && !(kind === 'word' && /^\d/.test(text)))
      throw this.#unexpected(`'text', a number or :claims.NAME`);
    this.#next++;
    return kind === 'claim' ? { claim: text } : { text };
  }

  #took(word: string): boolean {
    const { kind, text } = this.#token;
    if ((kind !== 'word' && kind !== 'sign') || text.toLowerCase() !== word) return false;
    this.#next++;
    return true;
  }

  #expect(word: string): void {
    if (!this.#took(word)) throw this.#unexpected(word === 'null' ? 'NULL' : `"${word}"`);
  }

  #unexpected(expected: string): RowFilterError {
    const { kind, text } = this.#token;
    const found = kind === 'end' ? 'the end' : kind === 'claim' ? `:claims.${text}` : `"${text}"`;
    return failed(this.#token, `expected ${expected}, not ${found}`);
  }
}

function failed({ at }: Token, message: string): RowFilterError {
  return new RowFilterError(`character ${at}: ${message}`);
}

function tokensOf(text: string): Token[] {
  const tokens: Token[] = [];
  for (const match of text.trimEnd().matchAll(TOKEN)) {
    const [whole, quoted, claim, word, sign, odd] = match;
    const at = match.index + whole.length - whole.trimStart().length + 1;
    if (odd !== undefined) throw new RowFilterError(`character ${at}: "${odd}" means nothing here`);
    if (quoted !== undefined) tokens.push({ kind: 'text', text: quoted.replaceAll("''", "'"), at });
    else if (claim !== undefined) tokens.push({ kind: 'claim', text: claim, at });
    else tokens.push({ kind: word === undefined ? 'sign' : 'word', text: word ?? sign ?? '', at });
  }
  return [...tokens, { kind: 'end', text: '', at: text.trimEnd().length + 1 }];
}
