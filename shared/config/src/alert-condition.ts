import type { Grain } from './kpi-names.ts';

/** What an alert looks at: an expression over values of its KPI, true or false (or unknown, where a value is missing). JSON. */
export type AlertExpression =
  | { readonly kind: 'number'; readonly value: number }
  | AlertValue
  | AlertBaseline
  | { readonly kind: 'minus' | 'not'; readonly of: AlertExpression }
  | {
      readonly kind: 'operation';
      readonly operator: AlertOperator;
      readonly left: AlertExpression;
      readonly right: AlertExpression;
    };

export type AlertOperator = '+' | '-' | '*' | '/' | '<' | '<=' | '>' | '>=' | '=' | '!=' | 'and' | 'or';

/** `gmv(hour)`: the newest bucket that is closed; `gmv(hour, open)`: the one after it; `gmv`: of a KPI without time. */
export interface AlertValue {
  readonly kind: 'value';
  readonly measure: string;
  readonly grain: Grain | null;
  readonly bucket: 'closed' | 'open';
}

/** `baseline(gmv, hour, same_weekday, 4)`: the mean of buckets before the newest closed one: of so many weeks, days or buckets before. */
export interface AlertBaseline {
  readonly kind: 'baseline';
  readonly measure: string;
  readonly grain: Grain;
  readonly of: 'same_weekday' | 'same_time' | 'previous';
  readonly count: number;
}

/** What there is to be named in a condition. */
export interface AlertNames {
  readonly measures: readonly string[];
  /** None: the KPI has no time. */
  readonly grains: readonly Grain[];
}

/** Where and why a condition cannot be read. */
export class ConditionError extends Error {}

const BASELINE_MAX = 52;
const TOKEN = /\s*(?:(\d+(?:\.\d+)?)|([a-z_][a-z0-9_]*)|(<=|>=|!=|[-+*/<>=(),])|(\S))/giy;

interface Token {
  /** `end` stands behind the last one. */
  readonly kind: 'number' | 'word' | 'sign' | 'end';
  readonly text: string;
  /** Counted from 1. */
  readonly at: number;
}

/**
 * Reads a condition such as `gmv(hour) < 0.5 * baseline(gmv, hour, same_weekday, 4) and orders(day) > 100`.
 *
 *     condition  := both ("or" both)*              both := one ("and" one)*        one := "not" one | compared
 *     compared   := sum (("<" | "<=" | ">" | ">=" | "=" | "!=") sum)?
 *     sum        := product (("+" | "-") product)*       product := factor (("*" | "/") factor)*
 *     factor     := NUMBER | "-" factor | "(" condition ")" | MEASURE | MEASURE "(" GRAIN ["," ("closed" | "open")] ")"
 *                 | "baseline" "(" MEASURE "," GRAIN "," ("same_weekday" | "same_time" | "previous") "," COUNT ")"
 *
 * @throws ConditionError that names the character, what was expected and what stands there
 */
export function parseCondition(text: string, names: AlertNames): AlertExpression {
  return new ConditionParser(text, names).parse();
}

class ConditionParser {
  readonly #tokens: readonly Token[];
  readonly #names: AlertNames;
  #next = 0;

  constructor(text: string, names: AlertNames) {
    this.#tokens = tokensOf(text);
    this.#names = names;
  }

  parse(): AlertExpression {
    const start = this.#token;
    const expression = this.#either();
    if (this.#token.kind !== 'end') throw this.#unexpected('and, or, or nothing more');
    if (!isLogical(expression)) throw failed(start, 'expected a comparison, such as gmv(hour) < 100');
    return expression;
  }

  get #token(): Token {
    return this.#tokens[this.#next] as Token;
  }

  #either(): AlertExpression {
    return this.#chain(['or'], () => this.#chain(['and'], () => this.#negated(), true), true);
  }

  /** Operands joined by operators of one rank, from left to right. @param logical what the operands must be */
  #chain(operators: readonly AlertOperator[], operand: () => AlertExpression, logical: boolean): AlertExpression {
    let start = this.#token;
    let left = operand();
    for (;;) {
      const operator = operators.find((one) => one === this.#token.text.toLowerCase());
      if (!operator) return left;
      this.#assert(left, logical, start);
      this.#next++;
      start = this.#token;
      const right = operand();
      this.#assert(right, logical, start);
      left = { kind: 'operation', operator, left, right };
    }
  }

  #negated(): AlertExpression {
    if (this.#token.text.toLowerCase() !== 'not') return this.#compared();
    this.#next++;
    const start = this.#token;
    const of = this.#negated();
    this.#assert(of, true, start);
    return { kind: 'not', of };
  }

  #compared(): AlertExpression {
    const start = this.#token;
    const left = this.#sum();
    const operator = (['<=', '>=', '!=', '<', '>', '='] as const).find((one) => one === this.#token.text);
    if (!operator) return left;
    this.#assert(left, false, start);
    this.#next++;
    const second = this.#token;
    const right = this.#sum();
    this.#assert(right, false, second);
    return { kind: 'operation', operator, left, right };
  }

  #sum(): AlertExpression {
    return this.#chain(['+', '-'], () => this.#chain(['*', '/'], () => this.#factor(), false), false);
  }

  #factor(): AlertExpression {
    const token = this.#token;
    this.#next++;
    if (token.kind === 'number') return { kind: 'number', value: Number(token.text) };
    if (token.text === '-') {
      const start = this.#token;
      const of = this.#factor();
      this.#assert(of, false, start);
      return { kind: 'minus', of };
    }
    if (token.text === '(') {
      const inner = this.#either();
      this.#expect(')');
      return inner;
    }
    if (token.kind === 'word') return token.text.toLowerCase() === 'baseline' ? this.#baseline() : this.#value(token);
    this.#next--;
    throw this.#unexpected('a number, a measure or baseline(…)');
  }

  #value(token: Token): AlertExpression {
    const measure = this.#measure(token);
    if (!this.#is('(')) {
      if (this.#names.grains.length > 0) throw this.#unexpected(`"(" and a grain: ${this.#names.grains.join(', ')}`);
      return { kind: 'value', measure, grain: null, bucket: 'closed' };
    }
    this.#next++;
    const grain = this.#grain();
    const which = this.#is(',') ? this.#argument(['closed', 'open']) : 'closed';
    this.#expect(')');
    return { kind: 'value', measure, grain, bucket: which };
  }

  #baseline(): AlertExpression {
    this.#expect('(');
    const measure = this.#measure(this.#take('word', 'a measure'));
    this.#expect(',');
    const start = this.#token;
    const grain = this.#grain();
    const of = this.#argument(['same_weekday', 'same_time', 'previous']);
    const shorter: readonly Grain[] = of === 'same_weekday' ? ['minute', 'hour', 'day'] : ['minute', 'hour'];
    if (of !== 'previous' && !shorter.includes(grain)) throw failed(start, `${of} is for the grains ${shorter.join(', ')}`);
    this.#expect(',');
    const counted = this.#take('number', 'how many');
    const count = Number(counted.text);
    if (!Number.isInteger(count) || count < 1 || count > BASELINE_MAX)
      throw failed(counted, `expected a whole number from 1 to ${BASELINE_MAX}`);
    this.#expect(')');
    return { kind: 'baseline', measure, grain, of, count };
  }

  #measure(token: Token): string {
    const { measures } = this.#names;
    if (measures.includes(token.text)) return token.text;
    throw failed(token, `there is no measure ${token.text}. Measures: ${measures.join(', ')}`);
  }

  #grain(): Grain {
    const { grains } = this.#names;
    const token = this.#take('word', 'a grain');
    const found = grains.find((one) => one === token.text);
    if (found) return found;
    throw failed(
      token,
      grains.length === 0 ? 'the Kpi has no time' : `${token.text} is not among time.grains: ${grains.join(', ')}`,
    );
  }

  #argument<Word extends string>(words: readonly Word[]): Word {
    this.#expect(',');
    const found = words.find((one) => one === this.#token.text.toLowerCase());
    if (!found) throw this.#unexpected(words.join(' or '));
    this.#next++;
    return found;
  }

  #take(kind: Token['kind'], expected: string): Token {
    const token = this.#token;
    if (token.kind !== kind) throw this.#unexpected(expected);
    this.#next++;
    return token;
  }

  #expect(sign: string): void {
    if (!this.#is(sign)) throw this.#unexpected(`"${sign}"`);
    this.#next++;
  }

  #is(sign: string): boolean {
    return this.#token.text === sign;
  }

  #assert(expression: AlertExpression, logical: boolean, start: Token): void {
    if (isLogical(expression) === logical) return;
    throw failed(start, logical ? 'expected a comparison, not a number' : 'expected a number, not a comparison');
  }

  #unexpected(expected: string): ConditionError {
    const { kind, text } = this.#token;
    return failed(this.#token, `expected ${expected}, not ${kind === 'end' ? 'the end' : `"${text}"`}`);
  }
}

function failed({ at }: Token, message: string): ConditionError {
  return new ConditionError(`character ${at}: ${message}`);
}

function isLogical(expression: AlertExpression): boolean {
  if (expression.kind === 'not') return true;
  return expression.kind === 'operation' && !['+', '-', '*', '/'].includes(expression.operator);
}

function tokensOf(text: string): Token[] {
  const tokens: Token[] = [];
  for (const match of text.trimEnd().matchAll(TOKEN)) {
    const [whole, number, word, sign, odd] = match;
    const found = number ?? word ?? sign ?? odd ?? '';
    const at = match.index + whole.length - found.length + 1;
    if (odd !== undefined) throw new ConditionError(`character ${at}: "${odd}" means nothing here`);
    tokens.push({ kind: number === undefined ? (word === undefined ? 'sign' : 'word') : 'number', text: found, at });
  }
  return [...tokens, { kind: 'end', text: '', at: text.trimEnd().length + 1 }];
}
