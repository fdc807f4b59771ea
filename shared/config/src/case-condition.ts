/** A condition over a case and its objects, true or false at every moment. JSON. */
export type CaseCondition =
  | { readonly kind: 'and' | 'or'; readonly of: readonly CaseCondition[] }
  | { readonly kind: 'not'; readonly of: CaseCondition }
  /** `all` is true of no objects. */
  | { readonly kind: 'all' | 'any'; readonly objects: ObjectsIn }
  | { readonly kind: 'count'; readonly objects: ObjectsIn; readonly operator: CountOperator; readonly value: number }
  /** It happened. */
  | { readonly kind: 'event'; readonly event: EventOf };

/** Objects of a type that are there, and (`states` not null) are in one of these states. */
export interface ObjectsIn {
  readonly object: string;
  readonly states: readonly string[] | null;
  /** In one of these states; false: in none of them. */
  readonly within: boolean;
}

export type CountOperator = '<' | '<=' | '>' | '>=' | '=' | '!=';

/** Events of a type of object: it came to be (`created`), is gone (`deleted`), reached a state or a milestone; or (`object` null) an activity. */
export interface EventOf {
  readonly object: string | null;
  readonly what: string;
}

/** What there is to be named. */
export interface CaseNames {
  readonly root: string;
  /** Column of the state, by type of object. */
  readonly states: Readonly<Record<string, string | null>>;
}

/** Where and why a condition cannot be read. */
export class CaseConditionError extends Error {}

/** `order.paid`, or the name of an activity. */
export function eventOf(text: string, { states }: CaseNames): EventOf {
  const dot = text.indexOf('.');
  const object = text.slice(0, Math.max(0, dot));
  if (!(object in states)) return { object: null, what: text };
  const what = text.slice(dot + 1);
  return { object, what: { insert: 'created', delete: 'deleted' }[what] ?? what };
}

const TOKEN = /\s*(?:'((?:[^']|'')*)'|(\d+)|([a-z_]\w*(?:\.\w+)?)|(<=|>=|!=|<>|[<>=(),])|(\S))/giy;

interface Token {
  /** `end` stands behind the last one. */
  readonly kind: 'text' | 'number' | 'word' | 'sign' | 'end';
  readonly text: string;
  /** Counted from 1. */
  readonly at: number;
}

/**
 * Reads a condition such as `all(parcel.status IN ('delivered','returned')) AND count(parcel) > 0`.
 *
 *     condition := both ("or" both)*         both := one ("and" one)*
 *     one       := "not" one | "(" condition ")" | ("all" | "any") "(" test ")"
 *                | "count" "(" (OBJECT | test) ")" ("<" | "<=" | ">" | ">=" | "=" | "!=") NUMBER
 *                | ROOT.STATE_COLUMN test      (the root's own)
 *                | OBJECT.EVENT                (it happened)
 *     test      := OBJECT.STATE_COLUMN ("=" TEXT | "!=" TEXT | ["not"] "in" "(" TEXT ("," TEXT)* ")")
 *
 * @throws CaseConditionError that names the character, what was expected and what stands there
 */
export function parseCaseCondition(text: string, names: CaseNames): CaseCondition {
  return new CaseConditionParser(text, names).parse();
}

class CaseConditionParser {
  readonly #tokens: readonly Token[];
  readonly #names: CaseNames;
  #next = 0;

  constructor(text: string, names: CaseNames) {
    this.#tokens = tokensOf(text);
    this.#names = names;
  }

  parse(): CaseCondition {
    const condition = this.#joined('or');
    if (this.#token.kind !== 'end') throw this.#unexpected('and, or, or nothing more');
    return condition;
  }

  get #token(): Token {
    return this.#tokens[this.#next] as Token;
  }

  #joined(kind: 'and' | 'or'): CaseCondition {
    const operand = () => (kind === 'or' ? this.#joined('and') : this.#one());
    const of = [operand()];
    while (this.#takes(kind)) of.push(operand());
    return of.length === 1 ? (of[0] as CaseCondition) : { kind, of };
  }

  #one(): CaseCondition {
    if (this.#takes('not')) return { kind: 'not', of: this.#one() };
    if (this.#takes('(')) {
      const condition = this.#joined('or');
      this.#expect(')');
      return condition;
    }
    for (const kind of ['all', 'any'] as const) {
      if (!this.#takes(kind)) continue;
      this.#expect('(');
      const objects = this.#test();
      this.#expect(')');
      return { kind, objects };
    }
    return this.#takes('count') ? this.#count() : this.#own();
  }

  #count(): CaseCondition {
    this.#expect('(');
    const { kind, text } = this.#token;
    const plain = kind === 'word' && text in this.#names.states;
    if (plain) this.#next++;
    const objects = plain ? { object: text, states: null, within: true } : this.#test();
    this.#expect(')');
    const sign = this.#token.text === '<>' ? '!=' : this.#token.text;
    const operator = (['<', '<=', '>', '>=', '=', '!='] as const).find((one) => one === sign);
    if (!operator) throw this.#unexpected('<, <=, >, >=, = or !=');
    this.#next++;
    const number = this.#token;
    if (number.kind !== 'number') throw this.#unexpected('a whole number');
    this.#next++;
    return { kind: 'count', objects, operator, value: Number(number.text) };
  }

  /** `order.status = 'paid'` of the root, or `order.paid`: it happened. */
  #own(): CaseCondition {
    const { kind, text } = this.#token;
    const [object = '', what = ''] = text.split('.');
    if (kind !== 'word' || !(object in this.#names.states) || what === '')
      throw this.#unexpected('all(…), any(…), count(…) or OBJECT.EVENT');
    const following = this.#tokens[this.#next + 1] as Token;
    if (!['=', '!=', '<>', 'in', 'not'].includes(following.text.toLowerCase())) {
      this.#next++;
      return { kind: 'event', event: eventOf(text, this.#names) };
    }
    if (object !== this.#names.root)
      throw this.#unexpected(`all(${text} …) or any(${text} …): a case may have several of ${object}`);
    return { kind: 'any', objects: this.#test() };
  }

  #test(): ObjectsIn {
    const { kind, text } = this.#token;
    const [object = '', column = ''] = text.split('.');
    if (kind !== 'word' || !(object in this.#names.states))
      throw this.#unexpected(`OBJECT.COLUMN; objects: ${Object.keys(this.#names.states).join(', ')}`);
    const state = this.#names.states[object];
    if (column !== state)
      throw this.#unexpected(
        typeof state !== 'string'
          ? `an object with a state: ${object} has none`
          : `${object}.${state}: a process knows the state alone`,
      );
    this.#next++;
    if (this.#takes('=')) return { object, states: [this.#text()], within: true };
    if (this.#takes('!=') || this.#takes('<>')) return { object, states: [this.#text()], within: false };
    const within = !this.#takes('not');
    if (!this.#takes('in')) throw this.#unexpected('=, !=, in or not in');
    this.#expect('(');
    const states = [this.#text()];
    while (this.#takes(',')) states.push(this.#text());
    this.#expect(')');
    return { object, states, within };
  }

  #text(): string {
    const { kind, text } = this.#token;
    if (kind !== 'text') throw this.#unexpected("a state in quotes, such as 'paid'");
    this.#next++;
    return text;
  }

  #takes(text: string): boolean {
    const token = this.#token;
    if (token.kind === 'text' || token.kind === 'end' || token.text.toLowerCase() !== text) return false;
    this.#next++;
    return true;
  }

  #expect(text: string): void {
    if (!this.#takes(text)) throw this.#unexpected(`"${text}"`);
  }

  #unexpected(expected: string): CaseConditionError {
    const { kind, text, at } = this.#token;
    return new CaseConditionError(
      `character ${at}: expected ${expected}; there is ${kind === 'end' ? 'nothing more' : `"${text}"`}`,
    );
  }
}

function tokensOf(text: string): Token[] {
  const tokens: Token[] = [];
  for (const match of text.matchAll(TOKEN)) {
    const [whole, quoted, number, word, sign, other] = match;
    const at = match.index + whole.length - whole.trimStart().length + 1;
    if (other !== undefined) throw new CaseConditionError(`character ${at}: "${other}" means nothing here`);
    if (quoted !== undefined) tokens.push({ kind: 'text', text: quoted.replaceAll("''", "'"), at });
    else if (number !== undefined) tokens.push({ kind: 'number', text: number, at });
    else if (word !== undefined) tokens.push({ kind: 'word', text: word, at });
    else tokens.push({ kind: 'sign', text: sign as string, at });
  }
  return [...tokens, { kind: 'end', text: '', at: text.length + 1 }];
}
