//! What the checks need of a page.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use std::collections::{BTreeMap, BTreeSet};

/// A page in Markdown.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) text: String,
    /// The anchors of its headings, as GitHub makes them.
    pub(crate) anchors: BTreeSet<String>,
    /// The targets of its links and images.
    pub(crate) links: Vec<String>,
    /// Its code spans, each on one line.
    pub(crate) spans: Vec<String>,
    /// Its fenced blocks without a language or of a shell.
    pub(crate) blocks: Vec<String>,
}

impl Page {
    pub(crate) fn parse(text: &str) -> Self {
        let mut page = Self { text: text.to_owned(), ..Self::default() };
        let (mut heading, mut block): (Option<String>, Option<String>) = (None, None);
        let mut seen = BTreeMap::new();
        for event in Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_GFM) {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap());
                    let count = seen.entry(anchor.clone()).or_insert(0);
                    page.anchors.insert(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
                    *count += 1;
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.into_string());
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language)))
                    if ["", "console", "sh", "bash", "shell"].contains(&&*language) =>
                {
                    block = Some(String::new());
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Code(code) => {
                    heading.as_mut().into_iter().for_each(|heading| heading.push_str(&code));
                    page.spans.push(code.replace('\n', " "));
                }
                Event::Text(text) => heading.as_mut().or(block.as_mut()).into_iter().for_each(|to| to.push_str(&text)),
                _ => {}
            }
        }
        page
    }
}

fn anchor(heading: &str) -> String {
    let is_kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(is_kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn page_has_anchors_links_and_code() {
    let page = Page::parse(
        "# A `b`, c\n## Same\n## Same\n[x](y.md#z) ![i](i.svg)\n```console\n$ make\n[no](link.md)\n```\n```yaml\nno\n```\n\
         | a |\n|---|\n| `in a\\|table` |\n`two\nlines`\n",
    );
    assert_eq!(page.anchors.iter().collect::<Vec<_>>(), ["a-b-c", "same", "same-1"]);
    assert_eq!(page.links, ["y.md#z", "i.svg"]);
    assert_eq!(page.blocks, ["$ make\n[no](link.md)\n"]);
    assert!(page.spans.contains(&"in a|table".to_owned()), "{:?}", page.spans);
}
