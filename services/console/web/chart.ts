import uPlot from '/assets/uPlot.esm.js';
import type { RateHistory } from '../src/wire.js';
import { rate } from './format.js';

const SAMPLES_MAX = 600;
const SERIES_COLOURS = 6;

/** The live chart: one line a source, drawn on a canvas, over the last minutes. */
export class RateChart {
  readonly #place: HTMLElement;
  readonly #legend: HTMLElement;
  #at: number[] = [];
  #series = new Map<string, (number | null)[]>();
  #seconds = 180;
  #plot: uPlot | null = null;
  #plotted = '';

  constructor(place: HTMLElement, legend: HTMLElement) {
    this.#place = place;
    this.#legend = legend;
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(place);
  }

  begin(history: RateHistory): void {
    this.#at = history.at.map((at) => at / 1_000);
    this.#series = new Map(Object.entries(history.series).map(([name, rates]) => [name, [...rates]]));
    this.#draw();
  }

  add(at: number, rates: Readonly<Record<string, number | null>>): void {
    if (at / 1_000 <= (this.#at.at(-1) ?? 0)) return;
    for (const name of Object.keys(rates)) {
      if (!this.#series.has(name))
        this.#series.set(
          name,
          this.#at.map(() => null),
        );
    }
    this.#at.push(at / 1_000);
    for (const [name, samples] of this.#series) samples.push(rates[name] ?? null);
    if (this.#at.length > SAMPLES_MAX) {
      this.#at.shift();
      for (const samples of this.#series.values()) samples.shift();
    }
    this.#draw();
  }

  showSeconds(seconds: number): void {
    this.#seconds = seconds;
    this.#draw();
  }

  /** Draws anew with the colours that hold now. */
  recolour(): void {
    this.#plotted = '';
    this.#draw();
  }

  #draw(): void {
    const names = [...this.#series.keys()].sort();
    if (this.#plotted !== names.join('\n')) this.#build(names);
    const data = [this.#at, ...names.map((name) => this.#series.get(name) ?? [])] as uPlot.AlignedData;
    this.#plot?.setData(data);
    names.forEach((name, index) => {
      const figure = this.#legend.children[index]?.querySelector('b');
      if (figure) figure.textContent = `${rate(this.#series.get(name)?.at(-1) ?? null)}/s`;
    });
  }

  #build(names: readonly string[]): void {
    this.#plotted = names.join('\n');
    this.#plot?.destroy();
    this.#plot = new uPlot(this.#options(names), [[], ...names.map(() => [])] as unknown as uPlot.AlignedData, this.#place);
    this.#legend.replaceChildren(...names.map(legendEntry));
  }

  #size(): { width: number; height: number } {
    return { width: this.#place.clientWidth, height: this.#place.clientHeight };
  }

  #options(names: readonly string[]): uPlot.Options {
    const axis = axisStyle();
    const last = () => this.#at.at(-1) ?? Date.now() / 1_000;
    return {
      ...this.#size(),
      legend: { show: false },
      cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
      scales: {
        x: { range: () => [last() - this.#seconds, last()] },
        y: { range: (_plot, _low, high) => [0, Math.max(10, (high ?? 0) * 1.15)] },
      },
      axes: [
        { ...axis, grid: { show: false }, values: '{HH}:{mm}:{ss}', space: 90 },
        { ...axis, size: 52, values: (_plot, ticks) => ticks.map((tick) => rate(tick)) },
      ],
      series: [
        {},
        ...names.map((name, index) => ({
          label: name,
          stroke: colour(seriesColour(index)),
          width: 2,
          fill: `color-mix(in srgb, ${colour(seriesColour(index))} 9%, transparent)`,
          points: { show: false },
        })),
      ],
    };
  }
}

function seriesColour(index: number): string {
  return `--series-${index % SERIES_COLOURS}`;
}

/** What every axis of the console's charts has. */
export function axisStyle(): uPlot.Axis {
  return {
    stroke: colour('--soft'),
    font: `12px ${getComputedStyle(document.body).fontFamily}`,
    grid: { stroke: colour('--line'), width: 1 },
    ticks: { show: false },
  };
}

/** A custom property as a colour that a canvas understands: only a computed property resolves `light-dark()`. */
export function colour(property: string): string {
  const probe = document.createElement('span');
  probe.style.color = `var(${property})`;
  document.body.append(probe);
  const resolved = getComputedStyle(probe).color;
  probe.remove();
  return resolved;
}

function legendEntry(name: string, index: number): HTMLElement {
  const entry = document.createElement('li');
  const swatch = document.createElement('i');
  swatch.style.setProperty('--swatch', `var(${seriesColour(index)})`);
  const label = document.createElement('span');
  label.textContent = name;
  entry.append(swatch, label, document.createElement('b'));
  return entry;
}
