import { byId, setText } from './element.js';
import { tokenHeaders } from './stream.js';
import { type Column, LiveTable } from './table.js';

/** Whoever types is left alone for so long. */
const REST_MS = 500;
/** Differences that are shown. */
const SHOWN_MAX = 50;

interface Difference {
  readonly bucket?: string | null;
  readonly dimensions?: Readonly<Record<string, unknown>>;
  readonly before: Readonly<Record<string, unknown>> | null;
  readonly after: Readonly<Record<string, unknown>> | null;
}

interface Preview {
  readonly running: boolean;
  readonly rows: number;
  readonly differences: readonly Difference[];
}

const DIFFERENCES: readonly Column<Difference>[] = [
  { label: 'Where', cell: (row) => ({ text: placeOf(row) }) },
  { label: 'Runs now', cell: ({ before, after }) => ({ text: changedIn(before, after), tone: 'quiet' }) },
  { label: 'Would be', cell: ({ before, after }) => ({ text: changedIn(after, before) }) },
];

/** A definition that is edited beside the one that runs: what is wrong with it and where, or which values it would change. Nothing is put into force. */
export class KpiTrial {
  readonly #text = byId<HTMLTextAreaElement>('kpi-edit');
  readonly #told = byId('kpi-trial');
  readonly #back = byId<HTMLButtonElement>('kpi-edit-back');
  readonly #table: LiveTable<Difference>;
  #kpi = '';
  /** As it is defined. */
  #defined = '';
  #grain = '';
  #asking: AbortController | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    const key = (row: Difference) => JSON.stringify(row);
    this.#table = new LiveTable(byId<HTMLTableElement>('kpi-differences'), DIFFERENCES, { key, empty: 'Nothing differs.' });
    this.#text.addEventListener('input', () => this.#soon());
    this.#back.addEventListener('click', () => this.#putBack());
    this.#told.addEventListener('click', () => this.#goTo());
    this.#putBack();
  }

  /** Another KPI, or another version of it, was chosen. What somebody has changed stays, as long as it is of the same KPI. */
  async show({ name, grain }: { readonly name: string; readonly grain: string }): Promise<void> {
    const same = name === this.#kpi;
    const edited = this.#text.value !== this.#defined;
    const moved = grain !== this.#grain;
    this.#kpi = name;
    this.#grain = grain;
    const response = await fetch(`/v1/kpis/${name}`, { headers: tokenHeaders() });
    if (!response.ok || this.#kpi !== name) return;
    const { document } = (await response.json()) as { readonly document: { readonly text: string | null } | null };
    this.#defined = document?.text ?? '';
    this.#text.placeholder = document ? '' : 'kind: Kpi …';
    if (!same || !edited) this.#putBack();
    else if (moved) this.#soon();
  }

  #putBack(): void {
    this.#text.value = this.#defined;
    this.#asking?.abort();
    clearTimeout(this.#timer);
    this.#tell('Change something: values that would be others are shown at once. Nothing is put into force here.', 'quiet');
    this.#table.show([]);
  }

  #soon(): void {
    this.#asking?.abort();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#try(), REST_MS);
  }

  async #try(): Promise<void> {
    const asking = new AbortController();
    this.#asking = asking;
    this.#tell('Trying it …', 'quiet');
    try {
      const response = await fetch(`/v1/kpis/${this.#kpi}:preview?by=none${this.#grain === '' ? '' : `&grain=${this.#grain}`}`, {
        method: 'POST',
        headers: { ...tokenHeaders(), 'Content-Type': 'application/yaml' },
        body: this.#text.value,
        signal: asking.signal,
      });
      const answer = (await response.json()) as Preview & { readonly detail?: string };
      if (asking.signal.aborted) return;
      if (!response.ok) return this.#tell(answer.detail ?? `It could not be tried (${response.status}).`, 'bad');
      const { differences, rows, running } = answer;
      this.#table.show(differences.slice(0, SHOWN_MAX));
      const more = differences.length > SHOWN_MAX ? `, of which ${SHOWN_MAX} are shown` : '';
      const than = running ? '' : ' No definition of that name runs.';
      this.#tell(`It fits. Values that would be others: ${differences.length} of ${rows}${more}.${than}`, 'good');
    } catch {
      if (!asking.signal.aborted) this.#tell('It could not be tried at the moment.', 'warn');
    }
  }

  #tell(text: string, tone: string): void {
    setText(this.#told, text);
    this.#told.dataset['tone'] = tone;
    if (tone === 'bad') this.#table.show([]);
  }

  /** To the line and column that a complaint names. */
  #goTo(): void {
    const [, line, column] = /\bbody:(\d+):(\d+)/.exec(this.#told.textContent ?? '') ?? [];
    if (line === undefined) return;
    const lines = this.#text.value.split('\n');
    const at = lines.slice(0, Number(line) - 1).reduce((sum, one) => sum + one.length + 1, 0);
    this.#text.focus();
    this.#text.setSelectionRange(at + Number(column) - 1, at + (lines[Number(line) - 1]?.length ?? 0));
  }
}

function placeOf({ bucket, dimensions = {} }: Difference): string {
  const parts = [bucket, ...Object.values(dimensions)].filter((one) => one !== null && one !== undefined);
  return parts.length === 0 ? 'all' : parts.join(', ');
}

/** What one side says that the other does not. */
function changedIn(side: Difference['before'], other: Difference['before']): string {
  if (side === null) return 'nothing';
  const changed = Object.entries(side).filter(([name, value]) => other === null || String(other[name]) !== String(value));
  return changed.map(([name, value]) => `${name} ${value === null ? 'nothing' : String(value)}`).join(', ');
}
