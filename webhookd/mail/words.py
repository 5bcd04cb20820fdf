"""What the mails say in each language: the parts that `messages` puts together; the templates have the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from webhookd.models import Reason
from webhookd.text import duration_words


@dataclass(frozen=True, slots=True)
class Words:
    """One language: texts with `{…}` for values; `one` and `many` of what is counted."""

    language: str
    reasons: Mapping[Reason, str]
    failed: str
    units: Mapping[str, str]
    waits: str
    wait: str
    too_many: str
    held_for: str
    held_count: str
    held_size: str
    hold: str
    more_hosts: str
    headlines: Mapping[str, str]  # by the notice's kind: of one webhook, and, as `kind.many`, of several
    test_subject: str
    confirm_subject: str
    percent: str

    def duration(self, seconds: float) -> str:
        """A configured time, exactly: `1 hour`, `30 minutes`, `90 seconds`."""
        number, unit = duration_words(seconds).split(" ")
        return f"{self.decimal(number)} {self.units.get(unit, unit)}"

    def number(self, number: int) -> str:
        """A whole number with its thousands set apart as the language does it."""
        grouped = f"{number:,}"
        return grouped.replace(",", ".") if self.language == "vi" else grouped

    def decimal(self, number: str) -> str:
        """A number with a fraction, its point as the language writes it."""
        return number.replace(".", ",") if self.language == "vi" else number

    def moment(self, moment: datetime) -> str:
        """A time of UTC, to the second."""
        return moment.strftime("%H:%M:%S %d/%m/%Y UTC" if self.language == "vi" else "%Y-%m-%d %H:%M:%S UTC")

    def waiting(self, count: int) -> str:
        """How many events wait."""
        return self.waits if count == 1 else self.wait.format(n=self.number(count))


WORDS = {
    "en": Words(
        language="en",
        reasons={
            Reason.STATUS: "the answer was not a success",
            Reason.TIMEOUT: "no complete answer in time",
            Reason.DNS: "the host name could not be resolved",
            Reason.REFUSED: "the connection was refused",
            Reason.RESET: "the connection was closed before the answer was complete",
            Reason.TLS: "the TLS connection could not be made",
            Reason.BLOCKED_ADDRESS: "the address is one that webhookd doesn't send to",
            Reason.PROTOCOL: "the answer was not valid HTTP",
            Reason.LOCAL: "a fault of webhookd's own machine, not counted",
        },
        failed="the attempt failed",
        units={},
        waits="1 event waits",
        wait="{n} events wait",
        too_many="more than {limit} failures in {window}",
        held_for="it was held for {time}",
        held_count="more than {n} wait",
        held_size="what waits takes more than {mb} MiB",
        hold="{time} and {n} events",
        more_hosts="{hosts} and {n} more",
        headlines={
            "auto_disabled": "Webhook disabled: {too_many}",
            "auto_disabled.many": "{n} webhooks disabled: {too_many}",
            "expired": "Held events expired",
            "expired.many": "Held events of {n} webhooks expired",
            "expiring": "Held events expire within 12 hours",
            "expiring.many": "Held events of {n} webhooks expire within 12 hours",
            "dropped": "Webhook drops events",
            "dropped.many": "{n} webhooks drop events",
            "budget_warned": "Failure budget {share} spent: {failures} of {limit} failures in {window}",
        },
        test_subject="Test: notices of disabled webhooks come like this",
        confirm_subject="Confirm: notices about webhooks to this address?",
        percent="{n} %",
    ),
    "vi": Words(
        language="vi",
        reasons={
            Reason.STATUS: "phản hồi không thành công",
            Reason.TIMEOUT: "không có phản hồi đầy đủ kịp thời",
            Reason.DNS: "không phân giải được tên máy chủ",
            Reason.REFUSED: "kết nối bị từ chối",
            Reason.RESET: "kết nối bị đóng trước khi phản hồi xong",
            Reason.TLS: "không tạo được kết nối TLS",
            Reason.BLOCKED_ADDRESS: "địa chỉ mà webhookd không gửi tới",
            Reason.PROTOCOL: "phản hồi không đúng chuẩn HTTP",
            Reason.LOCAL: "lỗi ở máy của webhookd, không tính",
        },
        failed="lần gửi bị lỗi",
        units={
            "hour": "giờ", "hours": "giờ", "minute": "phút", "minutes": "phút", "second": "giây", "seconds": "giây",
        },
        waits="1 sự kiện đang chờ",
        wait="{n} sự kiện đang chờ",
        too_many="hơn {limit} lỗi trong {window}",
        held_for="đã được giữ {time}",
        held_count="có hơn {n} sự kiện đang chờ",
        held_size="những gì đang chờ chiếm hơn {mb} MiB",
        hold="{time} và {n} sự kiện",
        more_hosts="{hosts} và {n} nữa",
        headlines={
            "auto_disabled": "Webhook bị tắt: {too_many}",
            "auto_disabled.many": "{n} webhook bị tắt: {too_many}",
            "expired": "Sự kiện được giữ đã hết hạn",
            "expired.many": "Sự kiện được giữ của {n} webhook đã hết hạn",
            "expiring": "Sự kiện được giữ sẽ hết hạn trong 12 giờ",
            "expiring.many": "Sự kiện được giữ của {n} webhook sẽ hết hạn trong 12 giờ",
            "dropped": "Webhook hủy sự kiện sau các lần thử",
            "dropped.many": "{n} webhook hủy sự kiện sau các lần thử",
            "budget_warned": "Hạn ngạch lỗi đã dùng {share}: {failures} trên {limit} lỗi trong {window}",
        },
        test_subject="Thử: thông báo về webhook bị tắt sẽ đến như thế này",
        confirm_subject="Xác nhận: gửi thông báo về webhook đến địa chỉ này?",
        percent="{n}%",
    ),
}  # fmt: skip
