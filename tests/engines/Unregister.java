// Has a cluster forget one of its brokers. Arguments: bootstrap servers, the broker's id.

import java.util.Map;
import org.apache.kafka.clients.admin.Admin;

public class Unregister {
    public static void main(String[] arguments) throws Exception {
        Map<String, Object> servers = Map.of("bootstrap.servers", arguments[0]);
        try (Admin admin = Admin.create(servers)) {
            admin.unregisterBroker(Integer.parseInt(arguments[1])).all().get();
        }
    }
}
