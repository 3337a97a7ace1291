import { html, type Html } from './html.js';
import { count, counted } from './numbers.js';

const WIDTH = 480;
const HEIGHT = 140;
const PLOT = { left: 8, right: 472, top: 20, bottom: 112 };

/** A histogram as one SVG; every bar has a title. `noun` is what is counted, `unit` what the edges are in. */
export function histogramChart({ id, edges, counts, noun, unit }: { id: string; edges: readonly number[]; counts: readonly number[]; noun: string; unit: string }): Html {
  const most = Math.max(1, ...counts);
  const width = (PLOT.right - PLOT.left) / Math.max(1, counts.length);
  const x = (bin: number) => Math.round((PLOT.left + bin * width) * 10) / 10;
  const height = (value: number) => Math.round((value / most) * (PLOT.bottom - PLOT.top) * 10) / 10;
  const labelled = edges.flatMap((edge, bin) => (bin % Math.ceil(edges.length / 6) === 0 ? [{ edge, bin }] : []));
  const tallest = counts.indexOf(most);
  return html`<figure class="chart bars">
<figcaption>${unit} a ${noun}</figcaption>
<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-labelledby="${id}">
<title id="${id}">${unit} a ${noun}, from ${edges[0]} to ${count(edges.at(-1)!)}${tallest < 0 ? '' : `; most often ${count(edges[tallest])} to ${count(edges[tallest + 1])} (${counted(most, noun)})`}</title>
${counts.map((value, bin) => html`<g><rect class="bar" x="${x(bin) + 0.5}" y="${PLOT.bottom - height(value)}" width="${Math.max(width - 1, 0.5).toFixed(1)}" height="${height(value)}"/><rect class="hit" x="${x(bin)}" y="${PLOT.top}" width="${width.toFixed(1)}" height="${PLOT.bottom - PLOT.top}"/><title>${count(edges[bin])} to ${count(edges[bin + 1])} ${unit}: ${counted(value, noun)}</title></g>`)}
${tallest < 0 ? undefined : html`<text x="${x(tallest) + width / 2}" y="${PLOT.top - 6}" text-anchor="${tallest === 0 ? 'start' : tallest === counts.length - 1 ? 'end' : 'middle'}">${count(most)}</text>`}
<line class="axis" x1="${PLOT.left}" x2="${PLOT.right}" y1="${PLOT.bottom}" y2="${PLOT.bottom}"/>
${labelled.map(({ edge, bin }) => html`<text x="${x(bin)}" y="${PLOT.bottom + 18}" text-anchor="${bin === 0 ? 'start' : bin === counts.length ? 'end' : 'middle'}">${count(edge)}</text>`)}
</svg>
</figure>`;
}
