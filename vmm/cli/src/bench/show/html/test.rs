use super::super::sample;
use super::page;
use crate::bench::document::Document;

fn embedded(page: &str) -> &str {
    let (_, rest) = page.split_once("<script type=\"application/json\" id=\"document\">").expect("the element");
    rest.split_once("</script>").expect("its end").0
}

#[test]
fn page_needs_nothing_else() {
    let page = page(&sample::document()).expect("a page");
    assert!(page.starts_with("<!DOCTYPE html>\n<html lang=\"en\">") && page.ends_with("</html>\n"));
    for reference in ["src=", "href=", "@import", "url(", "<link", "<img"] {
        assert!(!page.contains(reference), "{reference}");
    }
    // What stands behind `xmlns` is a name.
    assert_eq!(page.matches("http").count(), page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
    assert_eq!((page.matches("<script").count(), page.matches("<svg").count()), (1, 5));
}

#[test]
fn texts_can_not_become_markup() {
    let mut document = sample::document();
    let evil = "</script><script>alert('1')</script>&amp;\"";
    document.about.command = evil.to_owned();
    document.skipped[0].reason = evil.to_owned();
    for case in &mut document.cases {
        for text in [&mut case.name, &mut case.title, &mut case.conditions, &mut case.ours.what] {
            *text = evil.to_owned();
        }
        case.split.iter_mut().for_each(|part| part.name = evil.to_owned());
        case.point.iter_mut().for_each(|point| point.plot = evil.to_owned());
    }
    let page = page(&document).expect("a page");
    assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (1, 1));
    assert!(page.contains("&lt;/script&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;amp;&quot;"));
    let read: Document = serde_json::from_str(embedded(&page)).expect("a document");
    // All samples would be too much to show.
    assert!(read == document);
}

#[test]
fn page_holds_the_document_and_every_number_of_the_table() {
    let document = sample::document();
    let page = page(&document).expect("a page");
    let read: Document = serde_json::from_str(embedded(&page)).expect("a document");
    assert!(read == document);
    for part in [
        "<span class=\"missed\">13 of 16 goals reached</span>, 1 skipped",
        "<th>p99.9</th>",
        "ratio 1.38 <span title=\"95 % interval of the median\">[",
        "<span class=\"missed\">goal ≤ 1.15 missed</span>",
        "<span class=\"met\">1.30 µs, goal ≤ 1.50 µs reached</span>",
        "<span class=\"missed\">!flushes 2 (at most 1)</span>",
        "<dt>KVM</dt><dd>API 12, ring 0 emulated</dd>",
        "<li>scale/16: the host has 2 processors",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn nothing_measured_is_a_page_as_well() {
    let document = Document { cases: Vec::new(), ..sample::document() };
    let page = page(&document).expect("a page");
    assert!(page.contains("0 cases, <span class=\"met\">0 of 0 goals reached</span>") && !page.contains("<svg"));
}
