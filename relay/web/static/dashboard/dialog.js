/** Questions in front of the page: one at a time, kept to the keyboard, left with Escape. */

import { html, nothing, render } from '../vendor/lit-html.js'
import { icon } from './words.js'

const place = document.body.appendChild(document.createElement('div'))

/** What somebody said: the fields of the form by name, or null when it was left. */
export function ask({ title, words, fields = nothing, action = 'OK', danger = false, leave = 'Cancel' }) {
  return new Promise((resolve) => {
    const close = (said) => {
      render(nothing, place)
      resolve(said)
    }
    const submit = (event) => {
      event.preventDefault()
      close(Object.fromEntries(new FormData(event.target)))
    }
    render(
      html`<dialog aria-labelledby="dialog-title" @cancel=${() => close(null)}>
        <form method="dialog" @submit=${submit}>
          <h2 id="dialog-title">${title}</h2>
          ${words ? html`<p>${words}</p>` : nothing} ${fields}
          <div class="actions end">
            ${leave ? html`<button type="button" @click=${() => close(null)}>${leave}</button>` : nothing}
            <button class=${danger ? 'danger' : 'primary'}>${action}</button>
          </div>
        </form>
      </dialog>`,
      place,
    )
    place.firstElementChild.showModal()
  })
}

/** A secret is shown once: whoever closes this has it, or makes a new one. */
export const showSecret = (secret, title, words) =>
  ask({
    title,
    words,
    fields: html`<p class="secret"><code>${secret}</code><button type="button" @click=${() => navigator.clipboard.writeText(secret)}>${icon('copy')}Copy</button></p>`,
    action: 'I have it',
    leave: null,
  })
