import uPlot from '/assets/uPlot.esm.js';
import { axisStyle, colour } from './chart.js';
import { byId, setText as set } from './element.js';
import { count, duration } from './format.js';
import { KpiTrial } from './kpi-trial.js';
import { type Column, LiveTable } from './table.js';
import { tokenHeaders } from './stream.js';

/** Values are asked for this often while the page is seen. */
const ASK_MS = 2_000;
/** Values older than that are late where nothing is promised. */
const LATE_MS = 30_000;
/** Newest buckets that are drawn. */
const BUCKETS_MAX = 400;
/** Values of a dimension that are drawn: those that are largest in the newest bucket; as many as there are colours. */
const LINES_MAX = 6;
/** Values of a dimension that are listed. */
const PARTS_MAX = 50;
/** Not divided by a dimension. */
const TOGETHER = 'none';

interface Target {
  readonly measure: string;
  readonly grain: string;
  readonly target: number;
}

interface Kpi {
  readonly name: string;
  readonly state: string;
  readonly reason: string | null;
  readonly owner?: string | null;
  readonly version?: string;
  readonly tables?: readonly string[];
  readonly targets?: readonly Target[];
  readonly definition?: {
    readonly kind: 'measures' | 'query';
    readonly sql?: string;
    readonly time?: { readonly grains: readonly string[]; readonly zone: string } | null;
    readonly dimensions?: Readonly<Record<string, string>>;
    readonly measures?: Readonly<Record<string, { readonly unit: string | null }>>;
  };
}

interface Values {
  readonly rows: readonly {
    readonly bucket: string | null;
    readonly dimensions: Readonly<Record<string, unknown>>;
    readonly values: Readonly<Record<string, number | string | null>>;
  }[];
  readonly freshness: {
    readonly lagMs: number;
    readonly completeTo: string | null;
    readonly targetMs: number | null;
    readonly withinTarget: boolean | null;
    readonly position: string;
    readonly definitionVersion: string;
  };
}

interface Revision {
  readonly grain: string;
  readonly bucket: string;
  readonly revision: number;
  readonly flagged: boolean;
  readonly position: string;
}

const REVISIONS: readonly Column<Revision>[] = [
  { label: 'Bucket', cell: (row) => ({ text: row.bucket, note: row.grain }) },
  { label: 'Revision', number: true, cell: (row) => ({ text: count(row.revision), tone: row.flagged ? 'warn' : undefined }) },
  { label: 'As it was until', cell: (row) => ({ text: row.position, form: 'code' }) },
];

/** What one value of a dimension comes to, in the newest bucket. */
interface Part {
  readonly label: string;
  readonly value: number;
  readonly largest: number;
}

const PARTS: readonly Column<Part>[] = [
  { label: 'Value', cell: ({ label }) => ({ text: label }) },
  {
    label: 'In the newest bucket',
    number: true,
    cell: ({ value, largest }) => ({
      text: value.toLocaleString('en'),
      bar: largest > 0 ? Math.max(0, value) / largest : undefined,
    }),
  },
];

/** One line of the chart. */
interface Line {
  readonly label: string;
  readonly points: readonly (readonly [bucket: string | null, value: number | string | null])[];
}

/** The card of KPIs: one measure over time with its target, how fresh it is, what changed after it was closed, and the definition. Hidden where there is no KPI. */
export class KpiCard {
  readonly #place = byId('kpis');
  readonly #chart = byId('kpi-chart');
  readonly #choices = {
    kpi: byId<HTMLSelectElement>('kpi-name'),
    measure: byId<HTMLSelectElement>('kpi-measure'),
    grain: byId<HTMLSelectElement>('kpi-grain'),
    by: byId<HTMLSelectElement>('kpi-by'),
  };
  readonly #revisions: LiveTable<Revision>;
  readonly #parts: LiveTable<Part>;
  readonly #trial = new KpiTrial();
  #tried = '';
  #kpis: readonly Kpi[] = [];
  #plot: uPlot | null = null;
  #plotted = '';
  #asking = 0;

  constructor() {
    const key = (row: Revision) => `${row.grain} ${row.bucket} ${row.revision}`;
    this.#revisions = new LiveTable(byId<HTMLTableElement>('kpi-revisions'), REVISIONS, {
      key,
      empty: 'No closed bucket has changed.',
    });
    this.#parts = new LiveTable(byId<HTMLTableElement>('kpi-parts'), PARTS, { key: ({ label }) => label, empty: 'No rows.' });
    this.#choices.kpi.addEventListener('change', () => {
      this.#offer();
      void this.#show();
    });
    for (const choice of [this.#choices.measure, this.#choices.grain, this.#choices.by])
      choice.addEventListener('change', () => void this.#show());
    new ResizeObserver(() => this.#plot?.setSize({ width: this.#chart.clientWidth, height: this.#chart.clientHeight })).observe(
      this.#chart,
    );
  }

  /** Asks again and again, for ever. */
  async follow(): Promise<never> {
    for (;;) {
      if (!document.hidden) await this.#refresh().catch(() => this.#tell('The KPIs cannot be asked at the moment.', 'warn'));
      await new Promise((resolve) => setTimeout(resolve, ASK_MS));
    }
  }

  /** Draws anew with the colours that hold now. */
  recolour(): void {
    this.#plotted = '';
  }

  async #refresh(): Promise<void> {
    const kpis = await ask<readonly Kpi[]>('kpis');
    this.#place.hidden = kpis.length === 0;
    this.#place.dataset['asked'] = '';
    const names = (list: readonly Kpi[]) => list.map(({ name, version }) => `${name} ${version}`).join('\n');
    const changed = names(kpis) !== names(this.#kpis);
    this.#kpis = kpis;
    if (kpis.length === 0) return;
    if (changed) {
      fill(
        this.#choices.kpi,
        kpis.map(({ name }) => name),
      );
      this.#offer();
    }
    await this.#show();
  }

  get #kpi(): Kpi | undefined {
    return this.#kpis.find(({ name }) => name === this.#choices.kpi.value);
  }

  /** What there is to choose of the KPI that is chosen. */
  #offer(): void {
    const { measures = {}, dimensions = {}, time } = this.#kpi?.definition ?? {};
    fill(this.#choices.measure, Object.keys(measures));
    fill(this.#choices.grain, time?.grains ?? []);
    const names = Object.keys(dimensions);
    fill(this.#choices.by, names.length === 0 ? [] : [TOGETHER, ...names]);
    const [together] = this.#choices.by.options;
    if (together) together.text = 'all together';
  }

  async #show(): Promise<void> {
    const kpi = this.#kpi;
    if (!kpi) return;
    const { owner, version, tables = [], definition } = kpi;
    set(byId('kpi-definition'), JSON.stringify({ owner, version, tables, ...definition }, null, 2));
    this.#try(kpi);
    if (kpi.state !== 'ready' || definition?.kind !== 'measures') {
      this.#draw([], null);
      this.#divide([], '');
      return this.#tell(
        kpi.reason ?? (definition ? 'One SELECT: its values are at the HTTP interface.' : kpi.state),
        kpi.state === 'failed' ? 'bad' : 'quiet',
      );
    }
    const [measure, grain, by] = [this.#choices.measure.value, this.#choices.grain.value, this.#choices.by.value || TOGETHER];
    const asking = ++this.#asking;
    const within = grain === '' ? '' : `&grain=${grain}`;
    const valuesBy = (dimension: string) => ask<Values>(`kpis/${kpi.name}/values?by=${dimension}&measure=${measure}${within}`);
    const [values, parts, { revisions }] = await Promise.all([
      valuesBy(TOGETHER),
      by === TOGETHER ? null : valuesBy(by),
      ask<{ readonly revisions: readonly Revision[] }>(`kpis/${kpi.name}/revisions?${within.slice(1)}`),
    ]);
    // Another choice was made meanwhile: its answer counts.
    if (asking !== this.#asking) return;
    const target = kpi.targets?.find((one) => one.measure === measure && one.grain === grain)?.target ?? null;
    const lines = parts ? this.#divide(parts.rows, measure) : null;
    if (!parts) this.#divide([], measure);
    const whole = {
      label: measure,
      points: values.rows.map(({ bucket, values: one }) => [bucket, one[measure] ?? null] as const),
    };
    this.#draw(lines ?? [whole], lines ? null : target);
    this.#revisions.show(revisions.slice(0, 10));
    const newest = values.rows.at(-1)?.values[measure] ?? null;
    const unit = definition.measures?.[measure]?.unit ?? '';
    const { lagMs, completeTo, targetMs, withinTarget, position, definitionVersion } = values.freshness;
    const told = newest === null ? 'no value yet' : `${Number(newest).toLocaleString('en')} ${unit}`.trim();
    const promised = targetMs === null ? '' : ` (${withinTarget ? 'within' : 'later than'} its target of ${duration(targetMs)})`;
    this.#tell(
      `${told}. Complete to ${completeTo ?? 'nothing yet'}, ${duration(lagMs)} ago${promised}; at ${position}; definition ${definitionVersion}.`,
      (withinTarget ?? lagMs <= LATE_MS) ? 'quiet' : 'warn',
    );
  }

  #tell(text: string, tone: string): void {
    const place = byId('kpi-fresh');
    set(place, text);
    place.dataset['tone'] = tone;
  }

  /** Lists what each value of a dimension comes to in the newest bucket. @returns a line for each of the largest */
  #divide(rows: Values['rows'], measure: string): Line[] {
    byId('kpi-divided').hidden = rows.length === 0;
    const newest = rows.at(-1)?.bucket ?? null;
    const lines = new Map<string, { label: string; points: [string | null, number | string | null][]; newest: number }>();
    for (const { bucket, dimensions, values } of rows) {
      const label = Object.values(dimensions).map((one) => (one === null ? '(none)' : String(one)))[0] ?? '';
      const line = lines.get(label) ?? { label, points: [], newest: 0 };
      lines.set(label, line);
      const value = values[measure] ?? null;
      line.points.push([bucket, value]);
      if (bucket === newest) line.newest = Number(value ?? 0);
    }
    const largestFirst = [...lines.values()].toSorted((a, b) => b.newest - a.newest);
    const largest = largestFirst[0]?.newest ?? 0;
    this.#parts.show(largestFirst.slice(0, PARTS_MAX).map((one) => ({ label: one.label, value: one.newest, largest })));
    return largestFirst.slice(0, LINES_MAX);
  }

  /** A definition that is tried goes with what is chosen. */
  #try({ name, version = '' }: Kpi): void {
    const grain = this.#choices.grain.value;
    const tried = `${name} ${version} ${grain}`;
    if (tried === this.#tried) return;
    this.#tried = tried;
    void this.#trial.show({ name, grain }).catch(() => (this.#tried = ''));
  }

  #draw(lines: readonly Line[], target: number | null): void {
    const timed = lines.map(({ points }) => {
      const values = points.flatMap(([bucket, value]) =>
        bucket === null ? [] : [[Date.parse(bucket) / 1_000, value === null ? null : Number(value)] as const],
      );
      return new Map(values);
    });
    const times = [...new Set(timed.flatMap((one) => [...one.keys()]))].toSorted((a, b) => a - b).slice(-BUCKETS_MAX);
    this.#chart.hidden = times.length === 0;
    if (times.length === 0) return;
    const labels = lines.map(({ label }) => label);
    const plotted = JSON.stringify([labels, target === null]);
    if (this.#plotted !== plotted) {
      this.#plot?.destroy();
      this.#plot = new uPlot(this.#options(labels, target !== null), [[]] as unknown as uPlot.AlignedData, this.#chart);
      this.#plotted = plotted;
    }
    const data = [
      times,
      ...timed.map((one) => times.map((at) => one.get(at) ?? null)),
      ...(target === null ? [] : [times.map(() => target)]),
    ];
    this.#plot?.setData(data as uPlot.AlignedData);
  }

  #options(labels: readonly string[], targeted: boolean): uPlot.Options {
    const axis = axisStyle();
    return {
      width: this.#chart.clientWidth,
      height: this.#chart.clientHeight,
      legend: { show: labels.length > 1, live: false },
      cursor: { y: false, drag: { x: false, y: false } },
      axes: [
        { ...axis, grid: { show: false } },
        { ...axis, size: 64, values: (_plot, ticks) => ticks.map((tick) => count(tick)) },
      ],
      series: [
        {},
        ...labels.map((label, i) => ({ label, stroke: colour(`--series-${i}`), width: 2, points: { show: true, size: 5 } })),
        ...(targeted ? [{ label: 'target', stroke: colour('--series-1'), width: 1, dash: [6, 4], points: { show: false } }] : []),
      ],
    };
  }
}

async function ask<Answer>(path: string): Promise<Answer> {
  const response = await fetch(`/v1/${path}`, { headers: tokenHeaders() });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return (await response.json()) as Answer;
}

/** Choices by name; what is chosen stays chosen where it is still there. */
function fill(select: HTMLSelectElement, names: readonly string[]): void {
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  select.hidden = names.length === 0;
}
