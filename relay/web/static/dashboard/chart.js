/** Charts as plain SVG, each with its figures in words for those who do not see it. */

import { html, nothing, svg } from '../vendor/lit-html.js'
import { duration } from './words.js'

const WIDE = 720
const NARROW = 340
const HEIGHT = 180
const FOOT = 22
const LEFT = 34
const KINDS = ['succeeded', 'failed', 'cancelled']

/** Ends of jobs by hour or day, on top of each other. */
export function bars({ since, until, stepS, series }) {
  const width = matchMedia('(max-width: 54rem)').matches ? NARROW : WIDE
  const step = stepS * 1000
  const first = Math.floor(new Date(since) / step) * step
  const count = Math.max(1, Math.ceil((new Date(until) - first) / step))
  const known = new Map(series.map((bar) => [Math.floor((new Date(bar.at) - first) / step), bar]))
  const most = Math.max(1, ...series.map((bar) => KINDS.reduce((sum, kind) => sum + bar[kind], 0)))
  const top = niceAbove(most)
  const place = (width - LEFT) / count
  const y = (value) => (HEIGHT - FOOT) * (1 - value / top) + 6
  const total = (kind) => series.reduce((sum, bar) => sum + bar[kind], 0)
  const label = KINDS.map((kind) => `${total(kind)} ${kind}`).join(', ')
  const every = Math.ceil(count / (width / 90))
  return html`
    <figure class="chart">
      <svg viewBox="0 0 ${width} ${HEIGHT + 8}" role="img" aria-label=${label}>
        ${[0, 0.5, 1].map((part) => svg`<line x1=${LEFT} x2=${width} y1=${y(top * part)} y2=${y(top * part)} /><text x=${LEFT - 6} y=${y(top * part) + 4} class="end">${Math.round(top * part * 10) / 10}</text>`)}
        ${Array.from({ length: count }, (_, index) => column(known.get(index), index))}
        ${Array.from({ length: count }, (_, index) => (index % every ? nothing : svg`<text x=${LEFT + place * (index + 0.5)} y=${HEIGHT + 4} class="middle">${words(first + index * step)}</text>`))}
      </svg>
      <figcaption>${KINDS.map((kind) => html`<span class=${kind}><i></i>${kind} ${total(kind)}</span>`)}</figcaption>
    </figure>`

  function column(bar, index) {
    if (!bar) return nothing
    let below = 0
    return KINDS.map((kind) => {
      if (!bar[kind]) return nothing
      const from = below
      below += bar[kind]
      return svg`<rect class=${kind} x=${LEFT + place * index + Math.min(place * 0.15, 4)} width=${Math.max(1, Math.min(44, place - Math.min(place * 0.3, 8)))} y=${y(below)} height=${y(from) - y(below)} rx="2"><title>${words(first + index * step)}: ${bar[kind]} ${kind}</title></rect>`
    })
  }

  function words(ms) {
    const date = new Date(ms)
    return stepS < 86_400 && date.getHours() ? date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', hour12: false }) : date.toLocaleDateString([], { day: 'numeric', month: 'short' })
  }
}

/** For each model how long its jobs waited and rendered: the median, and up to what nine of ten needed. */
export function spans(models) {
  const shown = models.filter(({ waitS, renderS }) => waitS.p50 !== null || renderS.p50 !== null)
  if (!shown.length) return html`<p class="quiet">Nothing has ended yet.</p>`
  const most = Math.max(1, ...shown.flatMap(({ waitS, renderS }) => [waitS.p90 ?? 0, renderS.p90 ?? 0]))
  const part = (value) => `--value: ${((value ?? 0) / most) * 100}%`
  const line = (kind, words, { p50, p90 }) => html`
    <div class="span ${kind}"><span class="small">${words}</span><div><i class="p90" .style=${part(p90)}></i><i .style=${part(p50)}></i></div><span class="small">${duration(p50)} <span class="quiet">/ ${duration(p90)}</span></span></div>`
  return html`
    <ul class="spans">${shown.map(({ model, waitS, renderS }) => html`<li><b>${model}</b>${line('waited', 'waited', waitS)}${line('rendered', 'rendered', renderS)}</li>`)}</ul>
    <p class="fine">The median, and what nine of ten stayed below.</p>`
}

/** A round number at or above this one. */
function niceAbove(value) {
  const power = 10 ** Math.floor(Math.log10(value))
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value)
}
